"""QueryInst: the meta architecture.

The plain algorithm. `queryinst.build` makes the model that a configuration asks for out of it.
"""

from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..structures import PreciseBoxes, StageOutput, WholeBatch
from .backbone import build_fpn_backbone, extract_features, pad_images, use_running_statistics
from .cascade import InitialQueries, QueryCascade
from .criterion import SetCriterion
from .denoising import DenoisingQueries
from .mask_head import MaskBranch
from .matcher import HungarianMatcher
from .postprocessing import (
    PasteMasks,
    paste_masks,
    postprocess,
    select_detections,
    to_rows,
    unique_queries,
)
from .targets import batch_targets, instances_of


def whole_batch(images: ImageList) -> list[ImageList]:
    """Predict all images of a batch at once."""
    return [images]


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
        paste_masks: PasteMasks = paste_masks,
        split_batch: Callable[[ImageList], list[ImageList]] = whole_batch,
        denoising: DenoisingQueries | None = None,
        nms_threshold: float = 1.0,
    ):
        """
        Args:
            mask_head: MaskBranch; None for a box detector.
            in_features: the backbone's levels, the finest first.
            pixel_mean, pixel_std: per channel of `input_format`.
            score_threshold: detections that do not exceed it get no mask and are dropped.
            max_detections: kept for each image, over all queries and classes.
            norm_eval: batch norms of ``bottom_up`` use running statistics in training too.
            paste_masks: called as `postprocessing.paste_masks`.
            split_batch: parts of a batch that are predicted one after the other.
            denoising: further queries of training.
            nms_threshold: of `select_detections`.
        """
        super().__init__()
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
        self.paste_masks = paste_masks
        self.split_batch = split_batch
        self.denoising = denoising
        self.nms_threshold = nms_threshold
        self.inference_only = mask_head is not None and not mask_head.has_all_heads()
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
            "nms_threshold": cfg.MODEL.QUERYINST.NMS_THRESH_TEST,
            "denoising": DenoisingQueries(cfg) if cfg.MODEL.QUERYINST.DENOISING_GROUPS else None,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "QueryInst":
        """As nn.Module's, but keeps `norm_eval`; raises ValueError if it is inference_only."""
        if mode:
            self._require_all_parameters()
        super().train(mode)
        if self.norm_eval:
            use_running_statistics(self.backbone)
        return self

    def make_inference_only(self) -> None:
        """Remove the parameters that training alone needs, as MODEL.QUERYINST.INFERENCE_ONLY."""
        if self.mask_head is not None:
            self.mask_head.make_inference_only()
            self.inference_only = not self.mask_head.has_all_heads()

    def forward(
        self, batched_inputs: list[dict], whole: WholeBatch | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, detections otherwise.

        Args:
            batched_inputs: as of Detectron2's DatasetMapper: "image" (3, H, W) in INPUT.FORMAT, in
                training "instances", otherwise "height" and "width" of the output.
            whole: in training, the batch that these inputs are a part of, if not all of it.

        Returns:
            In training the weighted losses of every stage by name. Otherwise one
            ``{"instances": Instances}`` per image with pred_boxes, scores, pred_classes, pred_masks
            (D, height, width) bool and query_idx, by falling score.

        Raises:
            ValueError: in training, if the model is inference_only, or has no instances or masks.
        """
        if not self.training:
            return self.inference(batched_inputs)
        self._require_all_parameters()
        instances = instances_of(batched_inputs, self.device)
        images = self.preprocess_image(batched_inputs, whole.size if whole else (0, 0))
        whwh = self._whwh(torch.tensor(images.image_sizes, device=self.device))
        targets = batch_targets(instances, whwh, with_masks=self.mask_head is not None)
        num_instances = whole.num_instances if whole else targets.num_per_image
        features = extract_features(self.backbone, images.tensor, self.in_features)
        losses_of = partial(self._losses, features, tuple(images.tensor.shape[-2:]))
        boxes, query_feats = self.initial_queries(whwh)
        losses, num_matched = losses_of(boxes, query_feats, targets, num_instances)
        if self.denoising is not None:
            learned = self.initial_queries.query_feats
            losses |= self.denoising(losses_of, learned, targets, num_instances)
        get_event_storage().put_scalar("queryinst/num_matched", num_matched)
        return losses

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """Return detections.

        Args:
            batched_inputs: as `forward`'s; "instances" is not read.
            do_postprocess: bring them into images of "height" x "width"; drop those outside.

        Returns:
            ``[{"instances": Instances}]``; without postprocessing Instances in the resized
            images, whose pred_masks are (D, 1, 28, 28) scores.
        """
        assert not self.training
        if torch.jit.is_tracing():
            raise RuntimeError("a trace would fit no other image: use queryinst.export.export")
        if not batched_inputs:
            return []
        images = self.preprocess_image(batched_inputs)
        results = [result for part in self.split_batch(images) for result in self._detect(part)]
        if not do_postprocess:
            return results
        processed = []
        for result, x, (height, width) in zip(results, batched_inputs, images.image_sizes):
            size = x.get("height", height), x.get("width", width)
            processed.append({"instances": postprocess(result, *size, self.paste_masks)})
        return processed

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
        detections = select_detections(outputs[-1], self.max_detections, self.nms_threshold)
        if self.mask_head is None:
            return tuple(detections)
        num_queries = outputs[-1].boxes.shape[1]
        queries, places = unique_queries(detections.query_idx, num_queries)
        rows = to_rows(queries, num_queries).flatten()
        places, classes = to_rows(places, queries.shape[1]).flatten(), detections.classes.flatten()
        masks = self.mask_head.predict(features, outputs[-1], rows, places, classes)
        return (*detections, masks.unflatten(0, detections.scores.shape))

    def preprocess_image(self, batched_inputs: list[dict], min_size=(0, 0)) -> ImageList:
        """Normalize, then pad with zeros as `pad_images` does."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [((x - self.pixel_mean) / self.pixel_std).to(self.pixel_std) for x in images]
        return pad_images(self.backbone, images, min_size)

    def _losses(
        self, features, padded_size, boxes, query_feats, targets, num_instances
    ) -> tuple[dict[str, Tensor], int]:
        """Run all stages on these queries; the losses, and the number of matches they are over.

        Rows as of QueryCascade; `num_instances` are of the whole batch if this is a part of one.
        """
        outputs = self.cascade(features, boxes, query_feats, targets.num_groups)
        matches = self.matcher(outputs, targets)
        mask_logits = None
        if self.mask_head is not None:
            mask_logits = self.mask_head(features, outputs, matches, targets.num_groups)
        num_matched = sum(min(boxes.shape[1], num) for num in num_instances)
        losses = self.criterion(
            outputs, mask_logits, matches, targets, padded_size, num_matched=num_matched
        )
        return losses, num_matched

    def _run_cascade(self, images: Tensor, whwh: Tensor) -> tuple[list[Tensor], list[StageOutput]]:
        """Return the features of `in_features` and the output of every box stage."""
        features = extract_features(self.backbone, images, self.in_features)
        boxes, query_feats = self.initial_queries(whwh)
        return features, self.cascade(features, boxes, query_feats)

    def _detect(self, images: ImageList) -> list[Instances]:
        """Return detections above the threshold in the resized images; masks for these alone."""
        image_sizes = torch.tensor(images.image_sizes, device=self.device)
        features, outputs = self._run_cascade(images.tensor, self._whwh(image_sizes))
        detections = select_detections(outputs[-1], self.max_detections, self.nms_threshold)
        keep = detections.scores > self.score_threshold  # (N, k)
        boxes, scores, classes, query_idx = (field[keep] for field in detections)  # (D, ...)
        fields = {"scores": scores, "pred_classes": classes, "query_idx": query_idx}
        if self.mask_head is not None:
            rows = to_rows(detections.query_idx, outputs[-1].boxes.shape[1])[keep]  # (D,)
            unique_rows, detection_to_row = torch.unique(rows, return_inverse=True)
            masks = self.mask_head.predict(
                features, outputs[-1], unique_rows, detection_to_row, classes
            )
            fields["pred_masks"] = masks[:, None]
        parts = zip(*(field.split(keep.sum(1).tolist()) for field in (boxes, *fields.values())))
        return [
            Instances(tuple(size), **dict(zip(fields, values)), pred_boxes=PreciseBoxes(xyxy))
            for size, (xyxy, *values) in zip(images.image_sizes, parts)
        ]

    def _require_all_parameters(self) -> None:
        if self.inference_only:
            raise ValueError(
                "this model is inference_only, without the mask heads that training needs; set"
                " MODEL.QUERYINST.INFERENCE_ONLY False and start from a full file"
            )

    def _whwh(self, image_sizes: Tensor) -> Tensor:
        """(N, 2) height, width -> (N, 4) width, height, width, height, in float32 at least."""
        dtype = torch.promote_types(self.pixel_mean.dtype, torch.float32)
        return image_sizes.flip(1).repeat(1, 2).to(self.device, dtype)
