"""What the shapes in a state dict say about its configuration."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .inference_only import is_inference_only
from .layouts import BOTTOM_UP

State = Mapping[str, Tensor]

_STAGE = "cascade.stages.0."
_MASK_HEAD = re.compile(r"mask_head\.stages\.\d+\.")
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
    """How many numbered modules follow a prefix."""

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
    classes, channels = num_classes_of(state), _of_mask_head(_length("mask_logits.bias"))(state)
    return None if channels is None or classes == 1 else channels == 1


def _of_mask_head(fact: Callable[[State], Any]) -> Callable[[State], Any]:
    """A fact about any mask head; None without mask heads."""

    def of_one(state: State) -> Any:
        prefix = next((m[0] for name in state if (m := _MASK_HEAD.match(name))), None)
        if prefix is None:
            return None
        return fact({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})

    return of_one


_BOTTLENECK_END = BOTTOM_UP + "res2.0.conv3.weight"
# Blocks per stage and convolutions per block of a ResNet -> its depth.
_DEPTHS: Mapping[tuple[int, ...], int] = {
    (2, 2, 2, 2, 2): 18,
    (3, 4, 6, 3, 2): 34,
    (3, 4, 6, 3, 3): 50,
    (3, 4, 23, 3, 3): 101,
    (3, 8, 36, 3, 3): 152,
}


def _depth(state: State) -> int | None:
    blocks = [_children(f"{BOTTOM_UP}res{stage}.")(state) for stage in range(2, 6)]
    return _DEPTHS.get((*blocks, 3 if _BOTTLENECK_END in state else 2))


def _width_per_group(state: State) -> int | None:
    if _BOTTLENECK_END not in state:  # the two convolutions of a basic block have no such width
        return None
    return _length(BOTTOM_UP + "res2.0.conv2.weight", 1)(state)


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
    ("MODEL.ROI_MASK_HEAD.NUM_CONV", _of_mask_head(_children("convs."))),
    ("MODEL.ROI_MASK_HEAD.CONV_DIM", _of_mask_head(_length("deconv.bias"))),
    ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", _is_class_agnostic),
)
_BACKBONE_FACTS: Sequence[tuple[str, Callable[[State], Any]]] = (
    ("MODEL.RESNETS.DEPTH", _depth),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS", _length(BOTTOM_UP + "stem.conv1.weight")),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", _length(_BOTTLENECK_END)),
    ("MODEL.RESNETS.WIDTH_PER_GROUP", _width_per_group),
)


def differing_facts(model_state: State, file_state: State) -> list[str]:
    """The keys whose values differ between the model and a file, with both values.

    Shapes do not tell NUM_HEADS, for example.
    """
    if all(name.startswith(BOTTOM_UP) for name in file_state):
        return _differing(_BACKBONE_FACTS, model_state, file_state)
    if not (is_queryinst(model_state) and is_queryinst(file_state)):
        return []
    differing = _differing((*_FACTS, *_BACKBONE_FACTS), model_state, file_state)
    if _has_masks(model_state) and not _has_masks(file_state):
        differing.append("MODEL.MASK_ON is True, the file has no mask heads")
    if (
        _has_masks(model_state)
        and is_inference_only(file_state)
        and not is_inference_only(model_state)
    ):
        differing.append(
            "MODEL.QUERYINST.INFERENCE_ONLY is False, the file has only the last mask head"
        )
    return differing


def _differing(
    facts: Sequence[tuple[str, Callable[[State], Any]]], model_state: State, file_state: State
) -> list[str]:
    differing = []
    for key, fact in facts:
        ours, theirs = fact(model_state), fact(file_state)
        if None not in (ours, theirs) and ours != theirs:
            differing.append(f"{key} is {ours}, the file has {theirs}")
    return differing


def differs_in_classes(model_state: State, file_state: State, mismatched: Sequence[str]) -> bool:
    """Whether another class count, the same in all stages, explains all mismatched keys."""
    counts = {file_state[name].shape[:1] for name in file_state if _CLS_LOGITS.fullmatch(name)}
    return (
        len(counts) == 1
        and num_classes_of(model_state) != num_classes_of(file_state)
        and all(name in mismatched for name in model_state if _CLS_LOGITS.fullmatch(name))
        and all(
            _CLASS_DEPENDENT.fullmatch(name)
            and model_state[name].shape[1:] == file_state[name].shape[1:]
            for name in mismatched
        )
    )
