"""What QueryInst asks of a Detectron2 backbone beyond building it."""

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from .recomputing import recompute_trunk


def build_fpn_backbone(cfg: CfgNode) -> Backbone:
    """Detectron2's backbone with the reference's initial FPN weights.

    mmdet draws them Xavier uniform, Detectron2 by ``c2_xavier_fill``: the bounds differ where a
    convolution changes the number of channels.

    Raises:
        ValueError: the levels do not have EMBED_DIM channels, or CHECKPOINT_BACKBONE is set for a
            trunk that it does not know.
    """
    backbone = build_backbone(cfg)
    embed_dim = cfg.MODEL.QUERYINST.EMBED_DIM
    shapes = backbone.output_shape()
    for name in cfg.MODEL.ROI_HEADS.IN_FEATURES:
        if name in shapes and shapes[name].channels != embed_dim:
            raise ValueError(
                f"feature {name} has {shapes[name].channels} channels, EMBED_DIM is {embed_dim}; "
                "set MODEL.FPN.OUT_CHANNELS to MODEL.QUERYINST.EMBED_DIM"
            )
    if isinstance(backbone, FPN):
        for conv in (*backbone.lateral_convs, *backbone.output_convs):
            nn.init.xavier_uniform_(conv.weight)
    if cfg.MODEL.QUERYINST.CHECKPOINT_BACKBONE:
        recompute_trunk(backbone)
    return backbone


def pad_images(backbone: Backbone, images: list[Tensor], min_size=(0, 0)) -> ImageList:
    """One batch (N, C, H, W) of images (C, h, w), filled up with zeros at the right and below.

    Args:
        backbone: its divisibility or square size is kept.
        min_size: height, width that the images count with at least.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    missing = [max(0, least - size) for least, size in zip(min_size, sizes[0])]
    first = F.pad(images[0], (0, missing[1], 0, missing[0]))
    batch = ImageList.from_tensors(
        [first, *images[1:]],
        backbone.size_divisibility,
        padding_constraints=backbone.padding_constraints,
    )
    return ImageList(batch.tensor, sizes)


def use_running_statistics(backbone: nn.Module) -> None:
    """Put every batch norm of the trunk into eval mode; whether it learns does not change.

    mmdet ``ResNet(norm_eval=True)``. Frozen stages hold FrozenBatchNorm2d, which has one mode.
    """
    trunk = getattr(backbone, "bottom_up", backbone)
    for module in trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
