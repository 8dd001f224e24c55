"""Predictions beside the truth, as pictures in TensorBoard (VIS_PERIOD)."""

from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import nn

from .batches import LastBatch

_MOST = 20  # objects that are predicted in a picture, as Detectron2 draws


class TrainingPictures(HookBase):
    """Draws the first image of the batch every VIS_PERIOD iterations, as Detectron2's models do.

    The image is as it was trained on, with its augmentation; the prediction is that of the weights
    that evaluation takes, after the step.
    """

    def __init__(self, period: int, model: nn.Module, input_format: str, metadata: Metadata):
        """
        Args:
            period: VIS_PERIOD, >= 1.
            model: not wrapped for distributed training, in training mode.
            input_format: INPUT.FORMAT.
            metadata: of the data set that is trained on, for names and colours.
        """
        self._period = period
        self._model = model
        self._input_format = input_format
        self._metadata = metadata
        self._input: dict[str, Any] | None = None

    def take(self, batch: LastBatch) -> None:
        """Remember what is drawn after this step, if something is."""
        if self.trainer.iter % self._period == 0:
            self._input = batch.first()

    def after_step(self):
        taken, self._input = self._input, None
        if taken is None:
            return
        pixels = taken["image"].permute(1, 2, 0).cpu()  # (H, W, C)
        rgb = convert_image_to_rgb(pixels, self._input_format)
        predicted = self._predict(taken["image"])
        pair = [self._draw_truth(rgb, taken["instances"]), self._draw(rgb, predicted)]
        picture = np.concatenate(pair, axis=1).transpose(2, 0, 1)
        self.trainer.storage.put_image("Left: ground truth;  Right: predictions", picture)

    @torch.no_grad()
    def _predict(self, image: torch.Tensor) -> Instances:
        self._model.eval()
        try:
            (result,) = self._model([{"image": image}])
        finally:
            self._model.train()
        return result["instances"][:_MOST].to("cpu")

    def _draw(self, rgb: np.ndarray, instances: Instances) -> np.ndarray:
        drawing = Visualizer(rgb, self._metadata).draw_instance_predictions(instances)
        return drawing.get_image()

    def _draw_truth(self, rgb: np.ndarray, instances: Instances) -> np.ndarray:
        instances = instances.to("cpu")
        names = self._metadata.get("thing_classes") or ()
        classes = instances.gt_classes.tolist()
        drawing = Visualizer(rgb, self._metadata).overlay_instances(
            boxes=instances.gt_boxes,
            masks=instances.gt_masks if instances.has("gt_masks") else None,
            labels=[names[x] if x < len(names) else str(x) for x in classes],
        )
        return drawing.get_image()
