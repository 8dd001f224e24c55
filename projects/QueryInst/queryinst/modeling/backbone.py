"""What QueryInst asks of a Detectron2 backbone beyond building it."""

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..precision import at_least_fp32
from .activation_checkpointing import checkpoint_backbone


def build_fpn_backbone(cfg: CfgNode) -> Backbone:
    """Build Detectron2's backbone with the reference's initial FPN weights.

    mmdet draws them Xavier uniform, Detectron2 by ``c2_xavier_fill``: the bounds differ where a
    convolution changes the number of channels.

    Raises:
        ValueError: the levels do not have EMBED_DIM channels, or ACTIVATION_CHECKPOINTING names
            a backbone that has no stages to checkpoint.
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
    if "backbone" in cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING:
        checkpoint_backbone(backbone)
    return backbone


def pad_images(backbone: Backbone, images: list[Tensor], min_size=(0, 0)) -> ImageList:
    """Pad images (C, h, w) with zeros at the right and the bottom to one batch (N, C, H, W).

    Args:
        backbone: its divisibility or square size is kept.
        min_size: height, width that the batch has at least.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    margins = [max(0, least - size) for least, size in zip(min_size, sizes[0])]
    first = F.pad(images[0], (0, margins[1], 0, margins[0]))
    batch = ImageList.from_tensors(
        [first, *images[1:]],
        backbone.size_divisibility,
        padding_constraints=backbone.padding_constraints,
    )
    return ImageList(batch.tensor, sizes)


def extract_features(backbone: nn.Module, images: Tensor, names: list[str]) -> list[Tensor]:
    """Return the levels that RoIs are pooled from, in float32 at least.

    Args:
        images: (N, 3, H, W), normalized and padded.
        names: of the levels, the finest first.

    Returns:
        One (N, C, H, W) per name.
    """
    levels = backbone(images)
    return [at_least_fp32(levels[name]) for name in names]


def use_running_statistics(backbone: nn.Module) -> None:
    """Put every batch norm of ``bottom_up`` into eval mode; its weights learn as before.

    mmdet ``ResNet(norm_eval=True)``. Frozen stages hold FrozenBatchNorm2d, which has one mode.
    """
    bottom_up = getattr(backbone, "bottom_up", backbone)
    for module in bottom_up.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)):
            module.eval()
