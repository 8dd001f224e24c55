"""What a model was given last: for messages about the step that failed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Keys to lower where the memory of a GPU is not enough.
MEMORY_OF_TRAINING = (
    "SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN"
    " or MODEL.QUERYINST.NUM_QUERIES"
)
MEMORY_OF_TEST = "INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST or TEST.DETECTIONS_PER_IMAGE"


class LastBatch:
    """Remembers the inputs of a model's running forward pass."""

    def __init__(self, model: nn.Module):
        """
        Args:
            model: not yet wrapped for distributed training; its inputs are Detectron2's dicts.
        """
        self._batch: list[dict[str, Any]] = []
        self._handle = model.register_forward_pre_hook(self._remember)

    def _remember(self, model: nn.Module, args: tuple) -> None:
        self._batch = args[0] if args and isinstance(args[0], list) else []

    def forget(self) -> None:
        """Let go of the batch, whose memory may be needed."""
        self._batch = []

    def first(self) -> dict[str, Any] | None:
        """The input of its first image."""
        return self._batch[0] if self._batch else None

    def remove(self) -> None:
        """Let go of model and batch."""
        self._handle.remove()
        self.forget()

    def describe(self) -> str:
        """Files, image sizes and number of instances, in one line."""
        files = ", ".join(_file_name(x) for x in self._batch)
        sizes = ", ".join("x".join(map(str, x["image"].shape[-2:])) for x in self._batch)
        num = sum(len(x["instances"]) for x in self._batch if "instances" in x)
        return f"images {files} ({sizes} pixels, {num} instances)"

    def name_images(self, text: str) -> str:
        """`text` with the file behind each "image 3" that counts within the batch."""

        def with_file(match: re.Match) -> str:
            position = int(match[1])
            if position >= len(self._batch):
                return match[0]
            return f"{match[0]} ({_file_name(self._batch[position])})"

        return re.sub(r"\bimage (\d+)", with_file, text)


@contextmanager
def saying_what_to_lower(what: str, batch: LastBatch, keys: str) -> Iterator[None]:
    """
    Raises:
        RuntimeError: CUDA is out of memory in `what`; with the batch, and the keys to lower.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RuntimeError(
            f"CUDA out of memory in {what}, with {batch.describe()}; lower {keys}"
        ) from error


def _file_name(dataset_dict: dict[str, Any]) -> str:
    return str(dataset_dict.get("file_name", "?"))
