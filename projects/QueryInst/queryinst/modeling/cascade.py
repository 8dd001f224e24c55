"""The box cascade: initial queries, box decoding, and the loop over the stages."""

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor, nn

from ..precision import at_least_fp32
from ..structures import StageOutput
from .activation_checkpointing import checkpoint_call
from .box_head import DynamicBoxHead
from .initial_boxes import initial_boxes
from .pooler import RoIFeaturePooler, to_rois


class InitialQueries(nn.Module):
    """The learned boxes and features, equal for all images, that enter the first stage."""

    @configurable
    def __init__(self, *, num_queries: int, embed_dim: int, grid_sizes: Sequence[float] = ()):
        super().__init__()
        self.boxes_cxcywh_norm = nn.Parameter(initial_boxes(num_queries, grid_sizes))  # (Q, 4)
        self.query_feats = nn.Parameter(torch.randn(num_queries, embed_dim))  # (Q, C)

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "num_queries": queryinst.NUM_QUERIES,
            "embed_dim": queryinst.EMBED_DIM,
            "grid_sizes": queryinst.INITIAL_GRID_SIZES,
        }

    def forward(self, whwh: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries of each image of a batch.

        Args:
            whwh: (N, 4) width, height, width, height of the unpadded images, in pixels.

        Returns:
            boxes (N, Q, 4) XYXY_ABS, neither clamped nor clipped (mmdet ``EmbeddingRPNHead``), and
            query features (N, Q, C), a view that all images share.
        """
        center, size = at_least_fp32(self.boxes_cxcywh_norm).chunk(2, dim=1)
        boxes_norm = torch.cat([center - 0.5 * size, center + 0.5 * size], dim=1)
        boxes = boxes_norm[None] * whwh[:, None].to(boxes_norm)
        return boxes, self.query_feats.expand(whwh.shape[0], -1, -1)


class TwoSidedBox2BoxTransform(Box2BoxTransform):
    """Box2BoxTransform that clamps dw and dh on both sides, and keeps float64.

    mmdet ``DeltaXYWHBBoxCoder`` clamps to +-log(1000 / 16); Detectron2 clamps above only.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Move and scale boxes.

        Args:
            deltas: (..., 4) dx, dy, dw, dh, each times its weight.
            boxes: (..., 4) XYXY_ABS.

        Returns:
            (..., 4) XYXY_ABS, float32 or float64.
        """
        deltas = at_least_fp32(deltas)
        boxes = boxes.to(deltas.dtype)
        # One by one: a tensor of the weights would have to be sent to the device.
        scaled = [delta / weight for delta, weight in zip(deltas.unbind(-1), self.weights)]
        shift, log_scale = torch.stack(scaled, dim=-1).chunk(2, dim=-1)
        log_scale = log_scale.clamp(-self.scale_clamp, self.scale_clamp)
        size = boxes[..., 2:] - boxes[..., :2]
        center = boxes[..., :2] + 0.5 * size
        center = center + shift * size
        half = 0.5 * (log_scale.exp() * size)
        return torch.cat([center - half, center + half], dim=-1)


class QueryCascade(nn.Module):
    """The box stages, one after the other: the same loop in training, inference and export.

    QueryInst, section 3.1. It knows no labels. Boxes are detached between the stages, except the
    initial ones, which learn from stage 0; query features are never detached.
    """

    @configurable
    def __init__(
        self,
        *,
        pooler: nn.Module,
        stages: list[nn.Module],
        bbox_reg_weights: tuple,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            pooler: RoIFeaturePooler, 7x7.
            stages: DynamicBoxHeads.
            bbox_reg_weights: of Box2BoxTransform.
            activation_checkpointing: the backward pass pools and runs each stage again.
        """
        super().__init__()
        assert stages
        self.pooler = pooler
        self.stages = nn.ModuleList(stages)
        self.activation_checkpointing = activation_checkpointing
        self.box_transform = TwoSidedBox2BoxTransform(weights=bbox_reg_weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "pooler": RoIFeaturePooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape),
            "stages": [DynamicBoxHead(cfg) for _ in range(queryinst.NUM_STAGES)],
            "bbox_reg_weights": cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS,
            "activation_checkpointing": "box_heads" in queryinst.ACTIVATION_CHECKPOINTING,
        }

    def forward(
        self, features: list[Tensor], boxes: Tensor, query_feats: Tensor, num_groups: int = 1
    ) -> list[StageOutput]:
        """Refine the boxes of all queries, stage by stage.

        Args:
            features: one (N, C, H, W) per level.
            boxes: (N*G, Q, 4) XYXY_ABS, image after image.
            query_feats: (N*G, Q, C).
            num_groups: G, of queries of an image that do not see those of other groups.

        Returns:
            NUM_STAGES outputs. Their boxes carry the gradient of their own stage's deltas alone.
        """
        outputs: list[StageOutput] = []
        num_rows, num_queries = boxes.shape[:2]
        image_idx = torch.arange(num_rows // num_groups, device=boxes.device)
        image_idx = image_idx[:, None].expand(-1, num_groups * num_queries).flatten()
        for stage in self.stages:
            if outputs:
                boxes = boxes.detach()
            rois = to_rois(boxes.detach().flatten(0, 1), image_idx)
            run = partial(self._pool_and_run, stage)
            if self.activation_checkpointing:
                run = partial(checkpoint_call, stage, run)
            class_logits, deltas, query_feats, mask_queries = run(features, rois, query_feats)
            boxes = self.box_transform.apply_deltas(deltas, boxes)
            outputs.append(StageOutput(class_logits, boxes, query_feats, mask_queries))
        return outputs

    def _pool_and_run(
        self, stage: nn.Module, features: list[Tensor], rois: Tensor, query_feats: Tensor
    ) -> tuple[Tensor, ...]:
        return stage(query_feats, self.pooler(features, rois))
