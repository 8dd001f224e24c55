"""RoIAlign of all levels as weighted embedding bags, which run on all cores.

torchvision's kernel for the CPU runs on one, and its backward pass fills a gradient of the whole
map for each call. Gradients go to the features, not to the RoIs, in both.
"""

from typing import Any, cast

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn

from ..modeling import QueryInst
from ..modeling.pooler import PoolLevels
from ..precision import at_least_fp32
from .conditions import is_traced
from .roi_bags import collect_gradients, find_bags, pool_bags, supports_bags
from .slots import replace_pool_levels


def apply_to_model(model: QueryInst) -> None:
    """Let the poolers of `model` use bags, whose gradients meet at the backbone's levels."""
    model.backbone.register_forward_hook(_collect_gradients)
    replace_pool_levels(model, BagPooling)


class BagPooling:
    """Replaces `pool_levels` for RoIAlign with a fixed number of samples on the CPU."""

    def __init__(self, otherwise: PoolLevels):
        self.otherwise = otherwise

    def __call__(
        self, level_poolers: nn.ModuleList, features: list[Tensor], rois: Tensor, levels: Tensor
    ) -> Tensor:
        """As `pool_levels`; channels lie innermost in the result's memory."""
        if not all(map(supports_bags, level_poolers, features)):
            return self.otherwise(level_poolers, features, rois, levels)
        all_bags = []
        for level, (align, x) in enumerate(zip(level_poolers, features)):
            rows = torch.nonzero(levels == level)[:, 0]
            all_bags.append(find_bags(cast(ROIAlign, align), x.shape, rois[rows].to(x.dtype), rows))
        height, width = cast(ROIAlign, level_poolers[0]).output_size
        pooled = pool_bags(features, all_bags, len(rois), height * width)  # (R, H*W, C)
        return pooled.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _collect_gradients(
    backbone: nn.Module, args: tuple[Any, ...], levels: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Sum up the gradients of all poolings of a level at once."""
    if is_traced():
        return levels
    return {
        name: collect_gradients(at_least_fp32(x)) if x.device.type == "cpu" else x
        for name, x in levels.items()
    }
