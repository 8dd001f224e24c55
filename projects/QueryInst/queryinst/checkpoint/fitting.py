"""What the shapes in a state dict say of the configuration that it was made with."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]

_STAGE = "cascade.stages.0."
_MASK_STAGE = "mask_head.stages.0."
_CLASS_DEPENDENT = re.compile(
    r"(cascade\.stages\.\d+\.cls_logits|mask_head\.stages\.\d+\.mask_logits)\.(weight|bias)"
)
_CLS_LOGITS = re.compile(r"cascade\.stages\.\d+\.cls_logits\.(weight|bias)")


def is_queryinst(state: State) -> bool:
    """Whether the names are those of a QueryInst, with masks or without."""
    return "initial_queries.query_feats" in state and _STAGE + "cls_logits.bias" in state


def _length(name: str, dim: int = 0) -> Callable[[State], int | None]:
    def length(state: State) -> int | None:
        tensor = state.get(name)
        return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else None

    return length


def _children(prefix: str) -> Callable[[State], int]:
    """Of modules that are numbered after a prefix, how many there are."""

    def count(state: State) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    return count


num_classes_of = _length(_STAGE + "cls_logits.bias")
_embed_dim_of = _length("initial_queries.query_feats", 1)


def _dynamic_dim(state: State) -> int | None:
    kernels, width = _length(_STAGE + "dynamic_conv.kernel_generator.bias")(state), _embed_dim_of(
        state
    )
    return kernels // (2 * width) if kernels and width else None


def _box_resolution(state: State) -> int | None:
    inputs, width = _length(_STAGE + "roi_proj.weight", 1)(state), _embed_dim_of(state)
    return math.isqrt(inputs // width) if inputs and width else None


def _has_masks(state: State) -> bool:
    return any(name.startswith("mask_head.") for name in state)


def _is_class_agnostic(state: State) -> bool | None:
    classes, channels = num_classes_of(state), _length(_MASK_STAGE + "mask_logits.bias")(state)
    return None if channels is None or classes == 1 else channels == 1


def _of_masks(fact: Callable[[State], Any]) -> Callable[[State], Any]:
    """A fact about the mask heads; none where there are no such heads."""
    return lambda state: fact(state) if _has_masks(state) else None


_FACTS: Sequence[tuple[str, Callable[[State], Any]]] = (
    ("MODEL.QUERYINST.NUM_QUERIES", _length("initial_queries.query_feats")),
    ("MODEL.QUERYINST.NUM_STAGES", _children("cascade.stages.")),
    ("MODEL.QUERYINST.EMBED_DIM", _embed_dim_of),
    ("MODEL.QUERYINST.FFN_DIM", _length(_STAGE + "ffn_in.bias")),
    ("MODEL.QUERYINST.DYNAMIC_DIM", _dynamic_dim),
    ("MODEL.QUERYINST.NUM_CLS_FCS", _children(_STAGE + "cls_fcs.")),
    ("MODEL.QUERYINST.NUM_REG_FCS", _children(_STAGE + "reg_fcs.")),
    ("MODEL.ROI_HEADS.NUM_CLASSES", num_classes_of),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", _box_resolution),
    ("MODEL.ROI_MASK_HEAD.NUM_CONV", _of_masks(_children(_MASK_STAGE + "convs."))),
    ("MODEL.ROI_MASK_HEAD.CONV_DIM", _length(_MASK_STAGE + "deconv.bias")),
    ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", _is_class_agnostic),
)


def differing_facts(model_state: State, file_state: State) -> list[str]:
    """The keys whose values differ between the model and a file, with both values."""
    if not (is_queryinst(model_state) and is_queryinst(file_state)):
        return []
    differing = []
    for key, fact in _FACTS:
        ours, theirs = fact(model_state), fact(file_state)
        if None not in (ours, theirs) and ours != theirs:
            differing.append(f"{key} is {ours}, the file has {theirs}")
    if _has_masks(model_state) and not _has_masks(file_state):
        differing.append("MODEL.MASK_ON is True, the file has no mask heads")
    return differing


def fits_but_for_classes(model_state: State, file_state: State, misfits: Sequence[str]) -> bool:
    """Whether another class count explains all misfits, in all stages alike."""
    counts = {file_state[name].shape[:1] for name in file_state if _CLS_LOGITS.fullmatch(name)}
    return (
        len(counts) == 1
        and num_classes_of(model_state) != num_classes_of(file_state)
        and all(name in misfits for name in model_state if _CLS_LOGITS.fullmatch(name))
        and all(
            _CLASS_DEPENDENT.fullmatch(name)
            and model_state[name].shape[1:] == file_state[name].shape[1:]
            for name in misfits
        )
    )
