"""A model that PyTorch runs."""

import threading
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from queryinst_runtime.frames import to_result
from queryinst_runtime.masks import encode_crop
from queryinst_runtime.results import Result

from ..engine.amp import inference_autocast
from ..engine.finite_scores import NotNumberWatch
from ..engine.merged_views import mean_masks
from ..engine.predictor import Predictor
from ..engine.test_time_augmentation import QueryInstWithTTA
from ..modeling import QueryInst


class EagerBackend:
    """`model.Backend` of a Predictor: the same weights, resizing and precision."""

    def __init__(self, predictor: Predictor, category_ids: tuple[int, ...] = ()):
        self.predictor = predictor
        self.category_ids = category_ids
        self.class_names = tuple(predictor.metadata.get("thing_classes", None) or ())
        self.max_pixels = predictor.cfg.INPUT.MAX_PIXELS
        self.tta = bool(predictor.cfg.TEST.AUG.ENABLED)
        self._with_tta: QueryInstWithTTA | None = None
        self._lock = threading.Lock()  # the threshold is the model's

    @property
    def cfg(self) -> CfgNode:
        return self.predictor.cfg

    @property
    def model(self) -> QueryInst:
        return self.predictor.model

    def __repr__(self) -> str:
        return f"{self.cfg.MODEL.WEIGHTS!r}, device={self.cfg.MODEL.DEVICE!r}"

    def detect(self, images: list[np.ndarray], score: float) -> list[Result]:
        """As `model.Backend.detect`; a ValueError where scores or boxes are not numbers."""
        inputs = [self._input_of(image) for image in images]
        with self._lock, torch.no_grad(), inference_autocast(self.cfg):
            self.model.score_threshold = score
            with NotNumberWatch(self.model) as watch:
                instances = self.model.inference(inputs, do_postprocess=False)
        watch.require_none()
        sizes = [image.shape[:2] for image in images]
        named = self.class_names, self.category_ids
        return [result_of(*pair, *named) for pair in zip(instances, sizes)]

    def detect_with_tta(self, images: list[np.ndarray], score: float) -> list[Result]:
        """As `model.AugmentingBackend.detect_with_tta`, by TEST.AUG; errors as of `detect`."""
        with self._lock, torch.no_grad(), inference_autocast(self.cfg):
            if self._with_tta is None:
                self._with_tta = QueryInstWithTTA(self.cfg, self.model)
            with NotNumberWatch(self.model) as watch:
                results = [self._detect_with_tta(self._with_tta, x, score) for x in images]
        watch.require_none()
        return results

    def _detect_with_tta(self, tta: QueryInstWithTTA, image: np.ndarray, score: float) -> Result:
        pixels = image if self.cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        found, merged, (height, width) = tta.find({"image": tensor}, score)
        rles = None
        if found.masks is not None:
            rles = [
                encode_crop(top, left, mask.numpy(), height, width)
                for left, top, mask in mean_masks(found, merged, (height, width))
            ]
        limits = np.array([width, height] * 2, np.float32)
        return Result(
            image_size=(height, width),
            boxes=np.clip(merged.boxes.numpy().astype(np.float32), 0, limits),
            scores=merged.scores.numpy(),
            classes=merged.classes.numpy(),
            query_idx=merged.query_idx.numpy(),
            class_names=self.class_names,
            category_ids=self.category_ids,
            rles=rles,
        )

    def _input_of(self, image: np.ndarray) -> dict[str, Any]:
        pixels = image if self.cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
        pixels = self.predictor.aug.get_transform(pixels).apply_image(pixels)
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        return {"image": torch.from_numpy(pixels)}


def result_of(
    instances: Instances,
    image_size: tuple[int, int],
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
) -> Result:
    """Detections of a resized image -> a Result in the user's.

    As `modeling.postprocessing.postprocess`: boxes are scaled and clipped, and objects whose
    clipped box has no area are dropped; masks lie in the boxes that are not clipped.

    Args:
        instances: as of `QueryInst.inference` without postprocessing.
        image_size: height, width of the user's image.
    """
    arrays = {
        name: (value.tensor if name == "pred_boxes" else value).cpu().numpy()
        for name, value in instances.get_fields().items()
    }
    detections = {
        "boxes": arrays["pred_boxes"],
        "scores": arrays["scores"],
        "classes": arrays["pred_classes"],
        "query_idx": arrays["query_idx"],
    }
    if "pred_masks" in arrays:
        detections["masks"] = arrays["pred_masks"][:, 0]
    return to_result(detections, instances.image_size, image_size, class_names, category_ids)
