"""QueryCascade: the box stages, one after the other."""

from functools import partial

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from ..config import activation_checkpointing
from ..structures import StageOutput
from .box_head import DynamicBoxHead
from .box_transform import TwoSidedBox2BoxTransform
from .deferred_level import Level
from .pooler import build_pooler, to_rois
from .recomputing import recompute


class QueryCascade(nn.Module):
    """The box cascade. Label-free: the same loop in training, inference and export.

    QueryInst, section 3.1. Boxes are detached between the stages, but the initial ones, which learn
    from stage 0; query features are never detached.
    """

    @configurable
    def __init__(
        self,
        *,
        pooler: nn.Module,
        stages: list[nn.Module],
        bbox_reg_weights: tuple,
        recomputes: bool = False,
    ):
        """
        Args:
            pooler: RoIFeaturePooler, 7x7.
            stages: DynamicBoxHeads.
            bbox_reg_weights: of Box2BoxTransform.
            recomputes: the backward pass pools and runs each stage again, to save memory.
        """
        super().__init__()
        assert stages
        self.pooler = pooler
        self.stages = nn.ModuleList(stages)
        self.recomputes = recomputes
        self.box_transform = TwoSidedBox2BoxTransform(weights=bbox_reg_weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        num_stages = cfg.MODEL.QUERYINST.NUM_STAGES
        if num_stages < 1:
            raise ValueError(f"{num_stages=} must be >= 1; set MODEL.QUERYINST.NUM_STAGES")
        return {
            "pooler": build_pooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape),
            "stages": [DynamicBoxHead(cfg) for _ in range(num_stages)],
            "bbox_reg_weights": cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS,
            "recomputes": "box_heads" in activation_checkpointing(cfg),
        }

    def forward(
        self, features: list[Level], boxes: Tensor, query_feats: Tensor
    ) -> list[StageOutput]:
        """Refine the boxes of all queries, stage by stage.

        Args:
            features: one (N, C, H, W) per level.
            boxes: (N, Q, 4) XYXY_ABS.
            query_feats: (N, Q, C).

        Returns:
            NUM_STAGES outputs. Their boxes carry the gradient of their own stage's deltas alone.
        """
        outputs: list[StageOutput] = []
        num_images, num_queries = boxes.shape[:2]
        image_idx = torch.arange(num_images, device=boxes.device)
        image_idx = image_idx[:, None].expand(-1, num_queries).flatten()
        for stage in self.stages:
            if outputs:
                boxes = boxes.detach()
            rois = to_rois(boxes.detach().flatten(0, 1), image_idx)
            pool_and_run = partial(self._pool_and_run, stage)
            run = partial(recompute, stage, pool_and_run) if self.recomputes else pool_and_run
            class_logits, deltas, query_feats, mask_queries = run(features, rois, query_feats)
            boxes = self.box_transform.apply_deltas(deltas, boxes)
            outputs.append(StageOutput(class_logits, boxes, query_feats, mask_queries))
        return outputs

    def _pool_and_run(
        self, stage: nn.Module, features: list[Level], rois: Tensor, query_feats: Tensor
    ) -> tuple[Tensor, ...]:
        return stage(query_feats, self.pooler(features, rois))
