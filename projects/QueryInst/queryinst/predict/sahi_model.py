"""QueryInst for the package SAHI, for those who slice images with that."""

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask
except ImportError as error:
    raise ImportError(
        f"the package sahi is needed ({error}); pip install sahi. It asks for opencv-python, which"
        " overwrites the files of opencv-python-headless"
    ) from error

from queryinst_runtime.results import Result

from .loading import load
from .model import Model


class QueryInstDetectionModel(DetectionModel):
    """SAHI's interface to what `queryinst.load` gives; arguments are DetectionModel's.

    `model_path` is what `queryinst.load` takes, `config_path` the configuration of a checkpoint
    without one, `image_size` INPUT.MIN_SIZE_TEST. Category ids count the model's classes from 0,
    as in SAHI's own model for Detectron2. Objects below `confidence_threshold` are left out.
    """

    category_mapping: dict[str, str] | None

    def load_model(self) -> None:
        """Load `model_path`.

        Raises:
            ValueError, OSError, KeyError: as `queryinst.load`; or there is no `model_path`.
        """
        if self.model_path is None:
            raise ValueError("model_path is None; give it, or a model that queryinst.load gave")
        size = [] if self.image_size is None else ["INPUT.MIN_SIZE_TEST", str(self.image_size)]
        config_file = self.config_path or ""
        device = str(self.device)
        self._use(load(self.model_path, device=device, config_file=config_file, opts=size))

    def set_model(self, model: Any, **kwargs: Any) -> None:
        """Use a model that `queryinst.load` gave.

        Raises:
            ValueError: it is none; or `image_size`, which has to be known on loading, is given.
        """
        if not isinstance(model, Model):
            kind = type(model).__name__
            raise ValueError(f"the model is of type {kind}; give one that queryinst.load gave")
        if self.image_size is not None:
            raise ValueError(
                f"image_size {self.image_size} has no effect on a model that is loaded; give"
                ' queryinst.load opts=["INPUT.MIN_SIZE_TEST", ...]'
            )
        self._use(model)

    def _use(self, model: Model) -> None:
        if self.mask_threshold != 0.5:
            raise ValueError(f"mask_threshold {self.mask_threshold} must be 0.5")
        self.model = model
        if self.category_mapping is None:
            names = model.class_names
            self.category_mapping = {str(index): name for index, name in enumerate(names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Predict on (H, W, 3) uint8, RGB."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Predict on images as `perform_inference`'s, at once."""
        self._original_predictions = self.model.predict(
            list(images), score=self.confidence_threshold, batch=max(1, len(images))
        )

    @property
    def num_categories(self) -> int:
        return len(self.category_mapping or ())

    @property
    def category_names(self) -> list[str]:
        return list((self.category_mapping or {}).values())

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = None,
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        results: list[Result] = self._original_predictions
        shifts = _one_for_each(shift_amount_list or [0, 0], len(results))
        shapes = _one_for_each(full_shape_list, len(results))
        self._object_prediction_list_per_image = [
            [
                self._to_sahi(result, index, shift, shape or result.image_size)
                for index in range(len(result))
            ]
            for result, shift, shape in zip(results, shifts, shapes)
        ]

    def _to_sahi(
        self, result: Result, index: int, shift: Sequence[float], full_shape: Sequence[float]
    ) -> ObjectPrediction:
        category = int(result.classes[index])
        box = result.boxes[index].tolist()
        outlines = None
        if result.has_masks:
            outlines = get_coco_segmentation_from_bool_mask(result.mask(index)) or [_corners(box)]
        return ObjectPrediction(
            bbox=box,
            category_id=category,
            category_name=(self.category_mapping or {}).get(str(category), result.names[index]),
            segmentation=outlines,
            score=float(result.scores[index]),
            shift_amount=list(shift),
            full_shape=list(full_shape),
        )


def _one_for_each(values: Sequence[Any] | None, num: int) -> Sequence[Any]:
    """SAHI gives a pair for each image, or one pair for all, or None."""
    if values is None or isinstance(values[0], (int, float)):
        return [values] * num
    return values if len(values) == num else [values[0]] * num


def _corners(box: Sequence[float]) -> list[float]:
    """The outline of a mask that is too small to have one."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]
