"""QueryInst: the meta architecture."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..checkpoint.loading import match_state_dict
from ..checkpoint.mmdet import is_mmdet
from ..structures import PreciseBoxes, StageOutput, WholeBatch
from .backbone import (
    build_fpn_backbone,
    extract_features,
    pad_images,
    run_at_once,
    use_running_statistics,
)
from .cascade import QueryCascade
from .criterion import SetCriterion
from .deferred_level import Level
from .ground_truth import batch_targets
from .initial_queries import InitialQueries
from .mask_head import MaskBranch
from .matcher import HungarianMatcher
from .postprocessing import postprocess, select_topk

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class QueryInst(nn.Module):
    """Instances as Queries (Fang et al., ICCV 2021), with Detectron2's input and output contract.

    Boxes are absolute XYXY in pixels of the resized, unpadded image throughout.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        initial_queries: InitialQueries,
        cascade: QueryCascade,
        mask_head: MaskBranch | None,
        matcher: HungarianMatcher,
        criterion: SetCriterion,
        in_features: list[str],
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str,
        score_threshold: float,
        max_detections: int,
        norm_eval: bool,
        allow_unloaded: tuple[str, ...] = (),
    ):
        """
        Args:
            mask_head: MaskBranch; None for a box detector.
            in_features: the backbone's levels, the finest first.
            pixel_mean, pixel_std: per channel of `input_format`.
            score_threshold: detections that do not exceed it get no mask and are dropped.
            max_detections: kept for each image, over all queries and classes.
            norm_eval: batch norms of the trunk use running statistics in training too.
            allow_unloaded: patterns of parameters that a checkpoint may leave unfilled.

        Raises:
            ValueError: no detections are to be kept, or mean and std differ in length.
        """
        super().__init__()
        if max_detections < 1:
            raise ValueError(f"{max_detections=} must be >= 1; set TEST.DETECTIONS_PER_IMAGE")
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"{pixel_mean=} and {pixel_std=} differ in length; set MODEL.PIXEL_*")
        self.backbone = backbone
        self.initial_queries = initial_queries
        self.cascade = cascade
        self.mask_head = mask_head
        self.matcher = matcher
        self.criterion = criterion
        self.in_features = in_features
        self.input_format = input_format
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.norm_eval = norm_eval
        self.allow_unloaded = tuple(allow_unloaded)
        self.predicts_only = False  # of a copy that `optimize_for_inference` made
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_fpn_backbone(cfg)
        shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "initial_queries": InitialQueries(cfg),
            "cascade": QueryCascade(cfg, shape),
            "mask_head": MaskBranch(cfg, shape) if cfg.MODEL.MASK_ON else None,
            "matcher": HungarianMatcher(cfg),
            "criterion": SetCriterion(cfg),
            "in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "norm_eval": cfg.MODEL.BACKBONE.NORM_EVAL,
            "allow_unloaded": cfg.MODEL.QUERYINST.ALLOW_UNLOADED,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "QueryInst":
        """As nn.Module's; with NORM_EVAL the trunk's batch norms stay on running statistics."""
        if mode and self.predicts_only:
            raise ValueError("made by optimize_for_inference; train the model that it copied")
        super().train(mode)
        if self.norm_eval:
            use_running_statistics(self.backbone)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict=True, assign=False):
        """As nn.Module's, but that MMDetection's names are converted, and then nothing is lenient.

        Detectron2's checkpointer brings a bare state dict here and would only warn of what is left.

        Raises:
            ValueError, KeyError: one line; MMDetection's names, and not a file for this model, by
                the rules of `checkpoint.QueryInstCheckpointer`.
        """
        own = self.state_dict()
        if is_mmdet(name for name in state_dict if name not in own):
            matched = match_state_dict(
                own,
                state_dict,
                label="a state dict in MMDetection's names",
                partial=self.training,
                allow_unloaded=self.allow_unloaded,
            )
            for note in matched.notes:
                logger.info("%s", note)
            own.update(matched.tensors)
            state_dict, strict = own, True
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def make_slim(self) -> None:
        """Drop what training alone needs, as with MODEL.QUERYINST.INFERENCE_ONLY."""
        if self.mask_head is not None:
            self.mask_head.make_slim()

    def forward(
        self, batched_inputs: list[dict], whole: WholeBatch | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: as of Detectron2's DatasetMapper: "image" (3, H, W) in INPUT.FORMAT;
                "instances" with gt_boxes, gt_classes and gt_masks in training; "height" and "width"
                of the output.
            whole: in training, the batch that these inputs are but a part of.

        Returns:
            In training the weighted losses of every stage by name. Otherwise one
            ``{"instances": Instances}`` per image with pred_boxes, scores, pred_classes, pred_masks
            (D, height, width) bool and query_idx, by falling score.

        Raises:
            ValueError: in training; the model is slim, or instances have no masks.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs, whole.size if whole else (0, 0))
        whwh = self._whwh(torch.tensor(images.image_sizes, device=self.device))
        instances = [x["instances"].to(self.device) for x in batched_inputs]
        targets = batch_targets(instances, whwh, with_masks=self.mask_head is not None)
        features, outputs = self._run_cascade(images.tensor, whwh)
        matches = self.matcher(outputs, targets)
        mask_logits = None
        if self.mask_head is not None:
            mask_logits = self.mask_head(features, outputs, matches)
        padded_size = tuple(images.tensor.shape[-2:])
        num_queries = outputs[0].boxes.shape[1]
        num_instances = whole.num_instances if whole else targets.num_per_image
        num_matched = sum(min(num_queries, num) for num in num_instances)
        losses = self.criterion(
            outputs, mask_logits, matches, targets, padded_size, num_matched=num_matched
        )
        get_event_storage().put_scalar("queryinst/num_matched", num_matched)
        return losses

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """Detections.

        Args:
            batched_inputs: as `forward`'s; "instances" is not looked at.
            do_postprocess: bring them into images of "height" x "width".

        Returns:
            ``[{"instances": Instances}]``; without postprocessing Instances in the resized
            images, whose pred_masks are (D, 1, 28, 28) scores.
        """
        assert not self.training
        images = self.preprocess_image(batched_inputs)
        results = [found for part in run_at_once(images) for found in self._detect(part)]
        if not do_postprocess:
            return results
        return [
            {"instances": postprocess(result, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(results, batched_inputs, images.image_sizes)
        ]

    def forward_core(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """The network from pixels to detections in tensors alone, without a threshold.

        Args:
            images: (N, 3, H, W), normalized and padded.
            image_sizes: (N, 2) height, width of the unpadded images.

        Returns:
            boxes (N, k, 4), scores (N, k), classes (N, k), query_idx (N, k) and mask scores
            (N, k, 28, 28), without the last for a box detector.
        """
        features, outputs = self._run_cascade(images, self._whwh(image_sizes))
        last = outputs[-1]
        topk = select_topk(last.class_logits, self.max_detections)
        boxes = last.boxes.gather(1, topk.query_idx[..., None].expand(-1, -1, 4))
        result = (boxes, topk.scores, topk.classes, topk.query_idx)
        if self.mask_head is None:
            return result
        rows = topk.query_rows(last.boxes.shape[1]).flatten()
        mask_feats = self.mask_head.last_mask_features(features, last, rows)
        masks = self.mask_head.last.class_scores(
            mask_feats, torch.arange(len(rows), device=rows.device), topk.classes.flatten()
        )
        return (*result, masks.unflatten(0, topk.scores.shape))

    def preprocess_image(self, batched_inputs: list[dict], min_size=(0, 0)) -> ImageList:
        """Normalize, then pad with zeros to the backbone's divisibility or square size.

        Args:
            min_size: height, width that the result has at least.
        """
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return pad_images(self.backbone, images, min_size)

    def _run_cascade(self, images: Tensor, whwh: Tensor) -> tuple[list[Level], list[StageOutput]]:
        """Features of `in_features` and the output of every box stage."""
        num_poolings = len(self.cascade.stages) + (self.mask_head is not None)
        features = extract_features(self.backbone, images, self.in_features, num_poolings)
        boxes, query_feats = self.initial_queries(whwh)
        return features, self.cascade(features, boxes, query_feats)

    def _detect(self, images: ImageList) -> list[Instances]:
        """Detections above the threshold in the resized images; masks for these alone."""
        image_sizes = torch.tensor(images.image_sizes, device=self.device)
        features, outputs = self._run_cascade(images.tensor, self._whwh(image_sizes))
        last = outputs[-1]
        topk = select_topk(last.class_logits, self.max_detections)
        keep = topk.scores > self.score_threshold  # (N, k)
        rows = topk.query_rows(last.boxes.shape[1])[keep]  # (D,)
        fields = {
            "pred_boxes": last.boxes.flatten(0, 1)[rows],
            "scores": topk.scores[keep],
            "pred_classes": topk.classes[keep],
            "query_idx": topk.query_idx[keep],
        }
        if self.mask_head is not None:
            masks = self.mask_head.predict(features, last, rows, fields["pred_classes"])
            fields["pred_masks"] = masks[:, None]
        counts = keep.sum(1).tolist()
        split = {name: field.split(counts) for name, field in fields.items()}
        results = []
        for image, size in enumerate(images.image_sizes):
            result = Instances(tuple(size), **{name: rows[image] for name, rows in split.items()})
            result.pred_boxes = PreciseBoxes(result.pred_boxes)
            results.append(result)
        return results

    def _whwh(self, image_sizes: Tensor) -> Tensor:
        """(N, 2) height, width -> (N, 4) width, height, width, height in the parameters' dtype."""
        return image_sizes.flip(1).repeat(1, 2).to(self.initial_queries.boxes_cxcywh_norm)
