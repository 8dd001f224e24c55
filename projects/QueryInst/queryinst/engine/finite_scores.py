"""Predictions that are not numbers: a model drops such detections, and so finds nothing."""

import logging
import threading
from typing import Any

from detectron2.utils import comm
from torch import Tensor, nn

from ..structures import StageOutput

logger = logging.getLogger(__name__)


class NotNumberWatch:
    """Counts the images whose class scores or boxes a model computes as NaN.

    A context manager; it counts forward passes of this thread. The count stays on the model's
    device until it is read, so that nothing waits for the device.
    """

    def __init__(self, model: nn.Module):
        """
        Args:
            model: QueryInst, which may be wrapped for distributed training. Of another model, none
                are counted.
        """
        self._cascade = getattr(getattr(model, "module", model), "cascade", None)
        self._thread = threading.get_ident()
        self._num_images: Tensor | int = 0
        self._handle: Any = None

    def __enter__(self) -> "NotNumberWatch":
        if isinstance(self._cascade, nn.Module):
            self._handle = self._cascade.register_forward_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _count(self, module: nn.Module, args: Any, stages: list[StageOutput]) -> None:
        if threading.get_ident() != self._thread:
            return
        logits, boxes = stages[-1].class_logits, stages[-1].boxes
        is_spoilt = logits.isnan().flatten(1).any(1) | boxes.isnan().flatten(1).any(1)  # (N,)
        self._num_images = self._num_images + is_spoilt.sum()

    def num_images(self) -> int:
        """How many images; this waits for the device."""
        return int(self._num_images)

    def require_none(self) -> None:
        """Raise a ValueError if there are such images; this waits for the device."""
        if self.num_images():
            raise ValueError(
                "the model computes class scores or boxes that are not numbers (NaN) for this"
                " image: its weights are not finite, or TEST.PRECISION overflows"
            )


def warn_of_not_numbers(watch: NotNumberWatch) -> None:
    """One warning, by the main process, if any process saw NaN. All processes call this."""
    num_images = sum(comm.gather(watch.num_images()))
    if num_images:
        logger.warning(
            f"The model computes class scores or boxes that are not numbers (NaN) for {num_images} "
            "images, and drops these detections: its weights are not finite, or TEST.PRECISION "
            "overflows"
        )
