"""RoI features of a batch, by Detectron2's ROIPooler."""

from collections.abc import Callable
from typing import cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from torch import Tensor, nn

from ..precision import at_least_fp32
from ..structures import PreciseBoxes

PoolLevels = Callable[[nn.ModuleList, list[Tensor], Tensor, Tensor], Tensor]


def pool_levels(
    level_poolers: nn.ModuleList, features: list[Tensor], rois: Tensor, levels: Tensor
) -> Tensor:
    """Pool each RoI from its own level.

    Args:
        level_poolers: one RoIAlign per level.
        features: one (N, C, H, W) per level.
        rois: (R, 5) index of the image in the batch, then XYXY_ABS.
        levels: (R,) int64, each in [0, number of levels). RoIs of no level get zeros.

    Returns:
        (R, C, H', W') in the dtype of the features.
    """
    height, width = cast(ROIAlign, level_poolers[0]).output_size
    pooled = features[0].new_zeros(rois.shape[0], features[0].shape[1], height, width)
    for level, (x, pooler) in enumerate(zip(features, level_poolers)):
        rows = torch.nonzero(levels == level)[:, 0]
        # Detectron2's ROIAlign rounds the boxes to the features' dtype: by 4 px in bfloat16.
        roi_feats = pooler(at_least_fp32(x), rois[rows])
        pooled.index_put_((rows,), roi_feats.to(pooled))
    return pooled


class RoIFeaturePooler(ROIPooler):
    """Detectron2's ROIPooler for RoIs in one tensor. It keeps float64.

    The levels are the reference's, except where rounding decides.
    """

    @configurable
    def __init__(self, *, pool_levels: PoolLevels = pool_levels, **pooler):
        """
        Args:
            pool_levels: called as the function of that name in this module.
            pooler: ROIPooler's arguments.
        """
        super().__init__(**pooler)
        self.pool_levels = pool_levels

    @classmethod
    def from_config(cls, cfg, head: CfgNode, input_shape: dict[str, ShapeSpec]):
        """As of the POOLER_* keys of `head`, a section of `cfg`, over ROI_HEADS.IN_FEATURES."""
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if missing := [name for name in names if name not in input_shape]:
            raise ValueError(
                f"the backbone has no feature {missing[0]!r}, only {sorted(input_shape)}; "
                "set MODEL.ROI_HEADS.IN_FEATURES"
            )
        strides = [input_shape[name].stride for name in names]
        if strides != [strides[0] * 2**level for level in range(len(strides))]:
            raise ValueError(
                f"the features {list(names)} have strides {strides}, which must double from one to "
                "the next; set MODEL.ROI_HEADS.IN_FEATURES"
            )
        return {
            "output_size": head.POOLER_RESOLUTION,
            "scales": tuple(1.0 / stride for stride in strides),
            "sampling_ratio": head.POOLER_SAMPLING_RATIO,
            "pooler_type": head.POOLER_TYPE,
        }

    def forward(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """Pool each RoI from the level that its size belongs to.

        Args:
            features: one (N, C, H, W) per level, the finest first.
            rois: (R, 5) index of the image in the batch, then XYXY_ABS in pixels of the padded
                batch. R may be 0.

        Returns:
            (R, C, POOLER_RESOLUTION, POOLER_RESOLUTION), in the dtype of the features.
        """
        levels = assign_boxes_to_levels(
            [PreciseBoxes(rois[:, 1:])],
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        return self.pool_levels(self.level_poolers, features, rois, levels)


def to_rois(boxes: Tensor, image_idx: Tensor) -> Tensor:
    """Join (R, 4) boxes and (R,) image indices to (R, 5), as the pooler takes them."""
    return torch.cat([image_idx[:, None].to(boxes), boxes], dim=1)
