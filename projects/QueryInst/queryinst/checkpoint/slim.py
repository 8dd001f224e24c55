"""Slim models and files: without the mask heads that training alone runs.

Inference runs the last mask head. A slim state dict has that one, under its usual names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from detectron2.config import CfgNode

from .meta import is_slim_meta, read_meta

Value = TypeVar("Value")

_MASK_STAGE = re.compile(r"mask_head\.stages\.(\d+)\..+")
_BOX_STAGE = re.compile(r"cascade\.stages\.(\d+)\..+")


def is_slim(names: Iterable[str]) -> bool:
    """Whether these parameters, by this project's names, lack mask heads of earlier stages."""
    names = list(names)
    heads = _numbers(_MASK_STAGE, names)
    return len(heads) == 1 and len(_numbers(_BOX_STAGE, names)) > 1


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}


def unused_in_inference(names: Iterable[str]) -> list[str]:
    """Of these names those of all mask heads but the last."""
    names = list(names)
    last = max(_numbers(_MASK_STAGE, names), default=None)
    return [n for n in names if (match := _MASK_STAGE.fullmatch(n)) and int(match[1]) != last]


def to_slim(model_state: Mapping[str, Value]) -> dict[str, Value]:
    """A model's state dict without what inference never runs; what stays keeps its name.

    Raises:
        ValueError: there is nothing to drop, because it has no mask heads or one alone.
    """
    if not any(_MASK_STAGE.fullmatch(name) for name in model_state):
        raise ValueError(
            f"these {len(model_state)} tensors hold no mask heads (mask_head.stages.*), which are"
            " what slimming drops; only a QueryInst with MODEL.MASK_ON True can be made slim"
        )
    dropped = set(unused_in_inference(model_state))
    if not dropped:
        raise ValueError(
            f"these {len(model_state)} tensors hold one mask head alone: they are slim already"
        )
    return {name: value for name, value in model_state.items() if name not in dropped}


def fit_to_weights(cfg: CfgNode) -> CfgNode:
    """`cfg`, for evaluation: with INFERENCE_ONLY True where MODEL.WEIGHTS are a slim file.

    A model that is built from it never allocates what such a file lacks.

    Raises:
        ValueError, OSError: one line; the file can't be read.
    """
    weights = cfg.MODEL.WEIGHTS
    if cfg.MODEL.QUERYINST.INFERENCE_ONLY or not weights or not is_slim_meta(read_meta(weights)):
        return cfg
    is_frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.INFERENCE_ONLY = True
    if is_frozen:
        cfg.freeze()
    return cfg
