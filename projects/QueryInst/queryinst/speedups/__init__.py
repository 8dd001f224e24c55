"""What exists for speed alone: each file replaces a part of `modeling`, and computes the same.

MODEL.QUERYINST.SPEEDUPS chooses among the rows of `table`. A speed-up keeps the names of
parameters, falls back where it does not apply, and is removed by deleting its file and its row.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..modeling import QueryInst
from .optimize import optimize_for_inference
from .table import SPEEDUPS, Speedup, resolve

__all__ = [
    "SPEEDUPS",
    "Speedup",
    "optimize_for_inference",
    "resolve",
    "speed_up_model",
    "speed_up_process",
]


def speed_up_model(model: QueryInst, names: Sequence[str]) -> None:
    """Apply the speed-ups of these names to a model that has none yet, in place.

    Raises:
        ValueError: an unknown name.
    """
    _apply("apply_to_model", names, model)


def speed_up_process(cfg: CfgNode) -> None:
    """As `speed_up_model`, for the process of a training; only its launcher should call it."""
    _apply("apply_to_process", cfg.MODEL.QUERYINST.SPEEDUPS, cfg)


def _apply(function: str, names: Sequence[str], *args: Any) -> None:
    for row in resolve(names):
        apply = getattr(row.module(), function, None)
        if apply is not None:
            apply(*args)
