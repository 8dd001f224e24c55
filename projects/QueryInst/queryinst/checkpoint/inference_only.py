"""Inference-only models and files: without the mask heads that only training runs.

Inference runs the last mask head. An inference-only state dict keeps it, under its usual names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from detectron2.config import CfgNode

from .meta import is_inference_only_meta, read_meta

Value = TypeVar("Value")

_MASK_STAGE = re.compile(r"mask_head\.stages\.(\d+)\..+")
_BOX_STAGE = re.compile(r"cascade\.stages\.(\d+)\..+")


def is_inference_only(names: Iterable[str]) -> bool:
    """Whether these names, of this project, lack the mask heads of earlier stages."""
    names = list(names)
    heads = _numbers(_MASK_STAGE, names)
    return len(heads) == 1 and len(_numbers(_BOX_STAGE, names)) > 1


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}


def training_only_names(names: Iterable[str]) -> list[str]:
    """The names that belong to a mask head other than the last."""
    names = list(names)
    last = max(_numbers(_MASK_STAGE, names), default=None)
    return [n for n in names if (match := _MASK_STAGE.fullmatch(n)) and int(match[1]) != last]


def to_inference_only(model_state: Mapping[str, Value]) -> dict[str, Value]:
    """Remove the mask heads that inference never runs from a model's state dict.

    Raises:
        ValueError: there are no mask heads, or only one.
    """
    if not any(_MASK_STAGE.fullmatch(name) for name in model_state):
        raise ValueError(
            f"these {len(model_state)} tensors hold no mask heads (mask_head.stages.*); only a"
            " QueryInst with MODEL.MASK_ON True can become inference-only"
        )
    removed = set(training_only_names(model_state))
    if not removed:
        raise ValueError(
            f"these {len(model_state)} tensors hold only one mask head: they are inference-only"
            " already"
        )
    return {name: value for name, value in model_state.items() if name not in removed}


def fit_to_weights(cfg: CfgNode) -> CfgNode:
    """`cfg` for evaluation: INFERENCE_ONLY is True if MODEL.WEIGHTS are inference-only.

    A model that is built from it never allocates what the file lacks.

    Raises:
        ValueError, OSError: the file cannot be read. One line.
    """
    weights = cfg.MODEL.WEIGHTS
    if (
        cfg.MODEL.QUERYINST.INFERENCE_ONLY
        or not weights
        or not is_inference_only_meta(read_meta(weights))
    ):
        return cfg
    is_frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.INFERENCE_ONLY = True
    if is_frozen:
        cfg.freeze()
    return cfg
