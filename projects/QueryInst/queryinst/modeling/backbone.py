"""What QueryInst asks of a Detectron2 backbone beyond building it."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..config import activation_checkpointing
from .deferred_level import DeferredLevel, Level
from .folding import speed_up_convolutions
from .fpn import Pyramid, defer_finest_level
from .precision import at_least_fp32
from .recomputing import recompute_trunk
from .roi_bags import collect_gradients


def build_fpn_backbone(cfg: CfgNode) -> Backbone:
    """Detectron2's backbone with the reference's initial FPN weights.

    mmdet draws them Xavier uniform, Detectron2 by ``c2_xavier_fill``: the bounds differ where a
    convolution changes the number of channels.

    Raises:
        ValueError: the levels do not have EMBED_DIM channels, or ACTIVATION_CHECKPOINTING names a
            backbone that it does not support.
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
    speed_up_convolutions(backbone)
    defer_finest_level(backbone)
    if "backbone" in activation_checkpointing(cfg):
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


def run_at_once(images: ImageList) -> list[ImageList]:
    """A batch to predict in parts that run one after the other, padded as they are.

    On the CPU each image runs alone: together they take as long, and memory for all of them.
    """
    if images.tensor.device.type != "cpu":
        return [images]
    parts = zip(images.tensor.split(1), images.image_sizes)
    return [ImageList(pixels, [size]) for pixels, size in parts]


def extract_features(
    backbone: nn.Module, images: Tensor, names: list[str], num_poolings: int
) -> list[Level]:
    """The levels that RoIs are pooled from, in full precision.

    On the CPU channels lie innermost from here on: convolutions are faster so, and `BagROIAlign`
    reads pixel by pixel.

    Args:
        images: (N, 3, H, W), normalized and padded.
        names: of the levels, the finest first.
        num_poolings: how often all RoIs will be pooled.

    Returns:
        One (N, C, H, W) per name; the first may be a `DeferredLevel`.
    """
    if images.device.type == "cpu":
        images = images.contiguous(memory_format=torch.channels_last)
    levels = backbone(images)
    if isinstance(levels, Pyramid) and isinstance(finest := levels.levels[names[0]], DeferredLevel):
        finest.num_poolings = num_poolings
        return [finest, *(_for_pooling(levels[name]) for name in names[1:])]
    return [_for_pooling(levels[name]) for name in names]


def _for_pooling(x: Tensor) -> Tensor:
    x = at_least_fp32(x)
    if x.device.type != "cpu":
        return x
    return collect_gradients(x.contiguous(memory_format=torch.channels_last))


def use_running_statistics(backbone: nn.Module) -> None:
    """Put every batch norm of the trunk into eval mode; whether it learns does not change.

    mmdet ``ResNet(norm_eval=True)``. Frozen stages hold FrozenBatchNorm2d, which has one mode.
    """
    trunk = getattr(backbone, "bottom_up", backbone)
    for module in trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
