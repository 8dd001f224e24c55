"""RoI features of a batch, by Detectron2's ROIPooler."""

from typing import cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from torch import Tensor, nn

from ..structures import PreciseBoxes
from .deferred_level import DeferredLevel, Level
from .precision import at_least_fp32
from .roi_align import BagROIAlign
from .roi_bags import pool_bags

OUTSIDE = -1e5  # pixels: of no image, on no level


class RoIFeaturePooler(ROIPooler):
    """Detectron2's ROIPooler for RoIs in one tensor, which keeps float64.

    The levels are those of the reference but where rounding decides.
    """

    def __init__(self, *, output_size, scales, sampling_ratio, pooler_type):
        """As ROIPooler's; "ROIAlignV2" runs as `BagROIAlign`."""
        super().__init__(output_size, scales, sampling_ratio, pooler_type)
        if pooler_type == "ROIAlignV2":
            self.level_poolers = nn.ModuleList(
                BagROIAlign(self.output_size, spatial_scale=scale, sampling_ratio=sampling_ratio)
                for scale in scales
            )

    def forward(self, features: list[Level], rois: Tensor) -> Tensor:
        """Pool each RoI from the level that its size belongs to.

        Args:
            features: one (N, C, H, W) per level, the finest first, which may be deferred.
            rois: (R, 5) image of the batch, then XYXY_ABS in pixels of the padded batch. R may be 0

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
        if rois.device.type != "cpu":
            return self._pool_everywhere(cast(list[Tensor], features), rois, levels)
        rows = [torch.nonzero(levels == i)[:, 0] for i in range(len(self.level_poolers))]
        if isinstance(features[0], DeferredLevel):
            return self._pool_deferred(features[0], cast(list[Tensor], features[1:]), rois, rows)
        return self._pool(cast(list[Tensor], features), rois, rows)

    def _pool_deferred(
        self, finest: DeferredLevel, others: list[Tensor], rois: Tensor, rows: list[Tensor]
    ) -> Tensor:
        """Before the finest level's convolution, or after it, whichever is less work."""
        aligner, finest_rows = self.level_poolers[0], rows[0]
        height, width = self.output_size
        pools_first = _takes(aligner, finest.x) and finest.is_worth_pooling(
            len(finest_rows) * height * width
        )
        if not pools_first:
            return self._pool([finest.convolved, *others], rois, rows)
        pooled = self._pool([finest.x, *others], rois, [finest_rows[:0], *rows[1:]])
        bins = finest.pool(cast(BagROIAlign, aligner), rois[finest_rows])  # (r, H*W, C)
        pooled.permute(0, 2, 3, 1)[finest_rows] = bins.unflatten(1, (height, width))
        return pooled

    def _pool(self, features: list[Tensor], rois: Tensor, rows: list[Tensor]) -> Tensor:
        """Each level's RoIs, by `rows`; a RoI of no level gets zeros."""
        if all(_takes(pooler, x) for pooler, x in zip(self.level_poolers, features)):
            return self._pool_bags(features, rois, rows)
        pooled = features[0].new_zeros(len(rois), *self.output_size, features[0].shape[1])
        pooled = pooled.permute(0, 3, 1, 2)  # channels innermost in memory, as DynamicConv reads
        for x, pooler, level_rows in zip(features, self.level_poolers, rows):
            # Detectron2's ROIAlign rounds the boxes to the features' dtype: by 4 px in bfloat16.
            roi_feats = pooler(at_least_fp32(x), rois[level_rows])
            pooled.index_put_((level_rows,), roi_feats.to(pooled))
        return pooled

    def _pool_everywhere(self, features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        """As `_pool`, without asking the device which RoIs a level has, which would wait for it.

        Each level gets all RoIs, those of the others so far outside that they read nothing there
        and give zeros.

        Args:
            levels: (R,) int64; a RoI of no level gets zeros.
        """
        pooled = None
        for level, (x, pooler) in enumerate(zip(features, self.level_poolers)):
            boxes = rois[:, 1:].masked_fill((levels != level)[:, None], OUTSIDE)
            # Detectron2's ROIAlign rounds the boxes to the features' dtype: by 4 px in bfloat16.
            roi_feats = pooler(at_least_fp32(x), torch.cat([rois[:, :1], boxes], dim=1))
            pooled = roi_feats if pooled is None else pooled.add_(roi_feats)
        assert pooled is not None
        return pooled.to(features[0])

    def _pool_bags(self, features: list[Tensor], rois: Tensor, rows: list[Tensor]) -> Tensor:
        """All levels in one node of the graph, whose backward pass makes no copy for each."""
        bags = [
            cast(BagROIAlign, pooler).bags(x, rois[level_rows], level_rows)
            for pooler, x, level_rows in zip(self.level_poolers, features, rows)
        ]
        height, width = self.output_size
        pooled = pool_bags(features, bags, len(rois), height * width)  # (R, H*W, C)
        return pooled.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _takes(pooler: nn.Module, features: Tensor) -> bool:
    return isinstance(pooler, BagROIAlign) and pooler.takes(features)


def build_pooler(cfg: CfgNode, head: CfgNode, input_shape: dict[str, ShapeSpec]):
    """The pooler of a head's POOLER_* keys over ROI_HEADS.IN_FEATURES.

    Args:
        head: ``cfg.MODEL.ROI_BOX_HEAD`` or ``cfg.MODEL.ROI_MASK_HEAD``.

    Raises:
        ValueError: a level that the backbone does not have, or one channel count too many.
    """
    names = cfg.MODEL.ROI_HEADS.IN_FEATURES
    if missing := [name for name in names if name not in input_shape]:
        raise ValueError(
            f"the backbone has no feature {missing[0]!r}, only {sorted(input_shape)}; "
            "set MODEL.ROI_HEADS.IN_FEATURES"
        )
    return RoIFeaturePooler(
        output_size=head.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in names),
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )


def to_rois(boxes: Tensor, image_idx: Tensor) -> Tensor:
    """(R, 4) boxes and (R,) images -> (R, 5) as the pooler takes them."""
    return torch.cat([image_idx[:, None].to(boxes), boxes], dim=1)
