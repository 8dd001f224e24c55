"""Pooling that does not ask the GPU which RoIs a level has, which would wait for it."""

import torch
from torch import Tensor, nn

from ..modeling import QueryInst
from ..modeling.pooler import PoolLevels
from ..precision import at_least_fp32
from .conditions import is_traced
from .slots import replace_pool_levels

OUTSIDE = -1e5  # pixels: outside of every image


def apply_to_model(model: QueryInst) -> None:
    """Let the poolers of `model` pool without a look at the device."""
    replace_pool_levels(model, SyncFreePooling)


class SyncFreePooling:
    """Replaces `pool_levels` on other devices than the CPU.

    Each level gets all RoIs, those of other levels so far outside that they read nothing there and
    give zeros.
    """

    def __init__(self, otherwise: PoolLevels):
        self.otherwise = otherwise

    def __call__(
        self, level_poolers: nn.ModuleList, features: list[Tensor], rois: Tensor, levels: Tensor
    ) -> Tensor:
        """As `pool_levels`."""
        if not has_to_wait(rois.device):
            return self.otherwise(level_poolers, features, rois, levels)
        pooled = None
        for level, (x, pooler) in enumerate(zip(features, level_poolers)):
            boxes = rois[:, 1:].masked_fill((levels != level)[:, None], OUTSIDE)
            # Detectron2's ROIAlign rounds the boxes to the features' dtype: by 4 px in bfloat16.
            roi_feats = pooler(at_least_fp32(x), torch.cat([rois[:, :1], boxes], dim=1))
            pooled = roi_feats if pooled is None else pooled.add_(roi_feats)
        assert pooled is not None
        return pooled.to(features[0])


def has_to_wait(device: torch.device) -> bool:
    """Whether a look at a value there waits for all work before it."""
    return device.type != "cpu" and not is_traced()
