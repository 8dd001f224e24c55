"""What a checkpoint file holds, as `QueryInstCheckpointer` uses it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .layouts import note_on_second_tensors, tensors_of
from .meta import class_names, read_with_meta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """The weights by the file's own names, this project's meta, and all the rest.

    Attributes:
        thing_classes: by this project's or MMDetection's keys; () if the file has none.
    """

    path: str
    label: str
    tensors: Mapping[str, torch.Tensor]
    meta: dict[str, Any] | None
    thing_classes: tuple[str, ...]
    rest: dict[str, Any]

    @classmethod
    def read(cls, path: str, label: str) -> "Content":
        """Errors as `QueryInstCheckpointer.load`, except those of a model that does not fit."""
        checkpoint, meta = read_with_meta(path, label)
        tensors = tensors_of(checkpoint, label)
        if note := note_on_second_tensors(checkpoint, ()):
            logger.info("%s has %s", label, note)
        names = class_names(checkpoint.get("meta"))
        rest = dict(checkpoint) if "model" in checkpoint else {}
        rest.pop("model", None)
        return cls(path, label, tensors, meta, tuple(names), rest)
