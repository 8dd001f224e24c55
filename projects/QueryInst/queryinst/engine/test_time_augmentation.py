"""Test-time augmentation: an image predicted in several sizes, and mirrored, in one result."""

import copy
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.augmentation import build_augmentations
from ..precision import at_least_fp32
from ..structures import PreciseBoxes
from .merged_views import Merged, ViewDetections, first_of, mean_masks, merge_views

logger = logging.getLogger(__name__)

VIEW_SCORE = 0.05  # a view's detections below it are left out, if SCORE_THRESH_TEST is not lower
_DETECTRON2_SIZES = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)  # its default, around 800


class QueryInstWithTTA(nn.Module):
    """A QueryInst with TEST.AUG.{MIN_SIZES, MAX_SIZE, FLIP}; inputs and outputs are the model's.

    Detectron2's ``GeneralizedRCNNWithTTA`` runs the mask head again on the merged boxes. A query's
    mask belongs to the query, so here the masks that the views predict are averaged.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """
        Args:
            cfg: TEST.AUG, TEST.DETECTIONS_PER_IMAGE, MODEL.ROI_HEADS.SCORE_THRESH_TEST and INPUT.
            model: QueryInst or of a class derived from it, also within DistributedDataParallel.
        """
        super().__init__()
        self.module = model.module if isinstance(model, DistributedDataParallel) else model
        self.training = model.training  # which evaluation restores afterwards
        self.flip = cfg.TEST.AUG.FLIP
        self.score_threshold = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        self.max_detections = cfg.TEST.DETECTIONS_PER_IMAGE
        self.resizes = [_resize_to(cfg, size) for size in min_sizes(cfg)]

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Return detections.

        Args:
            batched_inputs: as of QueryInst; each "image" best in the file's own size, since views
                are resized from it.

        Returns:
            As of QueryInst, on the CPU. A score is the mean over the views; query_idx is that of
            the view with the highest score.
        """
        assert not self.module.training
        return [{"instances": self._predict(x)} for x in batched_inputs]

    def find(self, inputs: dict, score_threshold: float | None = None) -> "FoundInViews":
        """Return the merged detections of one image with their masks still in the views.

        Args:
            inputs: as one of `forward`'s.
            score_threshold: instead of MODEL.ROI_HEADS.SCORE_THRESH_TEST.
        """
        threshold = self.score_threshold if score_threshold is None else score_threshold
        image_size = tuple(inputs["image"].shape[-2:])
        image_size = inputs.get("height", image_size[0]), inputs.get("width", image_size[1])
        model: Any = copy.copy(self.module)  # shares all but the threshold
        model.score_threshold = min(threshold, VIEW_SCORE)
        parts: list[ViewDetections] = []
        for images in self._views(inputs["image"]):
            results = model.inference([{"image": x} for x in images], do_postprocess=False)
            for result, is_mirrored in zip(results, (False, True)):
                parts.append(_to_user(result, is_mirrored, image_size, len(parts)))
        found = _concatenate(parts)
        merged = merge_views(found, len(parts))
        num = min(int((merged.scores > threshold).sum()), self.max_detections)
        return FoundInViews(found, first_of(merged, num), image_size)

    def _predict(self, inputs: dict) -> Instances:
        found, merged, image_size = self.find(inputs)
        boxes = PreciseBoxes(merged.boxes.clone())
        boxes.clip(image_size)
        instances = Instances(image_size, pred_boxes=boxes, scores=merged.scores)
        instances.pred_classes, instances.query_idx = merged.classes, merged.query_idx
        if found.masks is not None:
            masks = torch.zeros(len(boxes), *image_size, dtype=torch.bool)
            for mask, (left, top, crop) in zip(masks, mean_masks(found, merged, image_size)):
                mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            instances.pred_masks = masks
        return instances

    def _views(self, image: Tensor) -> Iterator[list[Tensor]]:
        """Yield the image in each size, with its mirror image; sizes that are equal once."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        seen = set()
        for resize in self.resizes:
            resized = resize.get_transform(pixels).apply_image(pixels)
            if resized.shape in seen:
                continue
            seen.add(resized.shape)
            resized = resized.reshape(*resized.shape[:2], -1)
            view = torch.from_numpy(resized.transpose(2, 0, 1).copy())
            yield [view, view.flip(2)] if self.flip else [view]


class FoundInViews(NamedTuple):
    """What `mean_masks` makes masks of."""

    found: ViewDetections
    merged: Merged
    image_size: tuple[int, int]  # height, width of the user's image


def min_sizes(cfg: CfgNode) -> tuple[int, ...]:
    """TEST.AUG.MIN_SIZES; Detectron2's default scaled to a model of another size.

    That default is 0.5 to 1.5 times the 800 pixels of COCO's models. A model that predicts at an
    INPUT.MIN_SIZE_TEST beyond it was not trained for any of these sizes.
    """
    sizes, own = tuple(cfg.TEST.AUG.MIN_SIZES), cfg.INPUT.MIN_SIZE_TEST
    if sizes != _DETECTRON2_SIZES or own == 0 or sizes[0] <= own <= sizes[-1]:
        return sizes
    scaled = tuple(max(1, round(size * own / 800)) for size in sizes)
    logger.warning(
        f"TEST.AUG.MIN_SIZES is Detectron2's default, for images of 800 pixels; using {scaled}, "
        f"which fit INPUT.MIN_SIZE_TEST {own}. Set it to choose others"
    )
    return scaled


def _resize_to(cfg: CfgNode, min_size: int):
    """The resize of predictions, to another size."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min_size, cfg.TEST.AUG.MAX_SIZE
    return build_augmentations(cfg, is_train=False)[0]


def _to_user(
    result: Instances, is_mirrored: bool, image_size: tuple[int, int], view: int
) -> ViewDetections:
    """Bring a view's detections into the user's image; drop those that lie outside."""
    height, width = result.image_size
    result = result.to("cpu")
    boxes = at_least_fp32(result.pred_boxes.tensor)
    masks = at_least_fp32(result.pred_masks[:, 0]) if result.has("pred_masks") else None
    if is_mirrored:
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
        masks = None if masks is None else masks.flip(2)
    boxes = boxes * boxes.new_tensor([image_size[1] / width, image_size[0] / height]).repeat(2)
    clipped = PreciseBoxes(boxes.clone())
    clipped.clip(image_size)
    keep = clipped.nonempty()
    return ViewDetections(
        boxes=boxes[keep],
        scores=at_least_fp32(result.scores)[keep],
        classes=result.pred_classes[keep],
        query_idx=result.query_idx[keep],
        view_idx=torch.full((int(keep.sum()),), view),
        masks=None if masks is None else masks[keep],
    )


def _concatenate(parts: list[ViewDetections]) -> ViewDetections:
    masks = [part.masks for part in parts if part.masks is not None]
    return ViewDetections(
        boxes=torch.cat([part.boxes for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        classes=torch.cat([part.classes for part in parts]),
        query_idx=torch.cat([part.query_idx for part in parts]),
        view_idx=torch.cat([part.view_idx for part in parts]),
        masks=torch.cat(masks) if masks else None,
    )
