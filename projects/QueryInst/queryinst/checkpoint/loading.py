"""The rules for what a checkpoint may leave unfilled or unused; all else is an error.

A plan is made, and every rule applied, before anything in the model changes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fitting import differing_facts, fits_but_for_classes, is_queryinst, num_classes_of
from .layouts import TRUNK, to_model_names
from .slim import is_slim, unused_in_inference

# Never read by a batch norm with momentum; set by the configuration alone.
_OPTIONAL = re.compile(r"(.+\.)?num_batches_tracked|pixel_mean|pixel_std")
# The classifiers of backbones.
_IGNORED = re.compile(re.escape(TRUNK) + r"(stem\.)?(fc|linear)\..+")
_MASKS = "mask_head."


@dataclass(frozen=True)
class LoadPlan:
    """What to copy, by the model's names, and one line for the log per allowed incompleteness."""

    tensors: dict[str, Tensor]
    notes: list[str]

    def whole_state(self, model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a new file for the model holds: `tensors` in the model's order.

        The counters that files may lack, as nobody reads them, are zeros then.
        """
        state = {}
        for name, value in model_state.items():
            if name in self.tensors:
                state[name] = self.tensors[name]
            elif name.endswith("num_batches_tracked"):
                state[name] = torch.zeros(value.shape, dtype=value.dtype)
        return state


def plan_load(
    model_state: Mapping[str, Tensor],
    file_state: Mapping[str, Tensor],
    *,
    shown: str,
    partial: bool,
    allow_unloaded: Sequence[str] = (),
    complete: bool = False,
) -> LoadPlan:
    """Decide what of a file goes into a model.

    Args:
        model_state: the model's state dict.
        file_state: the file's tensors, by the names of any layout that `layouts.to_model_names`
            knows.
        shown: how messages name the file.
        partial: the model is to be trained, so a backbone alone, or another class count, will do.
        allow_unloaded: MODEL.QUERYINST.ALLOW_UNLOADED, patterns from the start of a name.
        complete: nothing may be left out, as when a training goes on; overrides the two above.

    Raises:
        ValueError: one line with what was left unfilled or unused, how many, and what to do.
        KeyError: the names are MMDetection's, and no rule takes one of them.
    """
    try:
        renamed = to_model_names(file_state, model_state)
    except KeyError as error:
        raise KeyError(f"{shown}: {error.args[0]}") from error
    case = _Case(model_state, renamed, shown)
    case.accept_unused_mask_heads()
    if not complete:
        case.accept_unused_masks()
        case.accept_unloaded(allow_unloaded)
    if case.is_backbone_alone():
        case.accept_backbone(partial and not complete)
    elif partial and not complete:
        case.accept_class_count()
    case.refuse_the_rest()
    return LoadPlan(case.fitting(), case.notes)


class _Case:
    """One file for one model: what still keeps it from a complete load, and what was accepted."""

    def __init__(
        self, model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor], shown: str
    ):
        self.model_state, self.file_state, self.shown = model_state, file_state, shown
        self.notes: list[str] = []
        self.unfilled = [
            n for n in model_state if n not in file_state and not _OPTIONAL.fullmatch(n)
        ]
        self.unused = [n for n in file_state if n not in model_state and not _is_ignorable(n)]
        self.misfits = [n for n in model_state if n in file_state and not self._fits(n)]

    def _fits(self, name: str) -> bool:
        ours, theirs = self.model_state[name], self.file_state[name]
        return ours.shape == theirs.shape and ours.is_floating_point() == theirs.is_floating_point()

    def fitting(self) -> dict[str, Tensor]:
        shared = (name for name in self.model_state if name in self.file_state)
        return {name: self.file_state[name] for name in shared if self._fits(name)}

    def accept_unused_masks(self) -> None:
        """A box detector (MASK_ON False) may take the weights of a model with masks."""
        masks = [name for name in self.file_state if name.startswith(_MASKS)]
        has_masks = any(name.startswith(_MASKS) for name in self.model_state)
        if masks and not has_masks and is_queryinst(self.model_state):
            self.unused = [name for name in self.unused if not name.startswith(_MASKS)]
            self.notes.append(
                f"{self.shown}: MODEL.MASK_ON is False, so its {len(masks)} tensors of mask_head"
                " stay unused"
            )

    def accept_unused_mask_heads(self) -> None:
        """A slim model takes what it has of a full file."""
        heads = set(unused_in_inference(self.file_state))
        unused = heads - self.model_state.keys()
        if unused and is_slim(self.model_state):
            self.unused = [name for name in self.unused if name not in heads]
            self.notes.append(
                f"{self.shown}: the model is slim (MODEL.QUERYINST.INFERENCE_ONLY), so"
                f" {len(unused)} tensors of mask heads that evaluation never runs stay unused"
            )

    def accept_unloaded(self, patterns: Sequence[str]) -> None:
        """Parameters that a person named by pattern may start afresh."""
        try:
            compiled = [re.compile(pattern) for pattern in patterns]
        except re.error as error:
            raise ValueError(
                f"MODEL.QUERYINST.ALLOW_UNLOADED {tuple(patterns)} must hold regular expressions:"
                f" {error}"
            ) from error
        dropped = self._drop(lambda name: any(pattern.match(name) for pattern in compiled))
        if dropped:
            self.notes.append(
                f"{self.shown}: {len(dropped)} parameters start afresh, as"
                f" MODEL.QUERYINST.ALLOW_UNLOADED allows: {', '.join(dropped)}"
            )

    def _drop(self, is_accepted: Callable[[str], object]) -> list[str]:
        """Strike accepted names from what is unfilled and what misfits; give them."""
        dropped = [name for name in self.unfilled + self.misfits if is_accepted(name)]
        self.unfilled = [name for name in self.unfilled if not is_accepted(name)]
        self.misfits = [name for name in self.misfits if not is_accepted(name)]
        return dropped

    def is_backbone_alone(self) -> bool:
        """Whether the file has a trunk and nothing else, and the model has more."""
        return all(n.startswith(TRUNK) for n in self.file_state) and not all(
            n.startswith(TRUNK) for n in self.model_state
        )

    def accept_backbone(self, is_allowed: bool) -> None:
        """Training may start from a trunk, all of it; what is wrong within the trunk stays."""
        if not is_allowed:
            raise ValueError(
                f"{self.shown} holds a backbone alone; evaluation, prediction and --resume need a"
                " whole QueryInst, only a new training may start from a backbone"
            )
        self._drop(lambda name: not name.startswith(TRUNK))
        filled = [name for name in self.fitting() if not _OPTIONAL.fullmatch(name)]
        if not self._is_incomplete():
            self.notes.append(
                f"Backbone weights from {self.shown}: all {len(filled)} tensors of the trunk"
                " filled; the rest starts afresh"
            )

    def accept_class_count(self) -> None:
        """Training may start from another class count; that changes certain layers, no others."""
        is_whole = not self.unfilled and not self.unused
        if is_whole and fits_but_for_classes(self.model_state, self.file_state, self.misfits):
            layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self.misfits))
            self.notes.append(
                f"{self.shown} has {num_classes_of(self.file_state)} classes,"
                f" MODEL.ROI_HEADS.NUM_CLASSES is {num_classes_of(self.model_state)}: these"
                f" {len(layers)} layers start afresh: {', '.join(layers)}"
            )
            self.misfits = []

    def _is_incomplete(self) -> bool:
        return bool(self.unfilled or self.unused or self.misfits)

    def refuse_the_rest(self) -> None:
        """Raise a ValueError if anything unaccepted is left."""
        if not self._is_incomplete():
            return
        if facts := differing_facts(self.model_state, self.file_state):
            raise ValueError(
                f"{self.shown} does not fit the configuration: {'; '.join(facts)}; set the keys to"
                " what the file has, or name other weights"
            )
        raise ValueError(f"{self.shown} does not fit the model: {self._count()}; {self._advice()}")

    def _count(self) -> str:
        parts = []
        if self.unfilled:
            parts.append(f"{len(self.unfilled)} parameters left unfilled ({_first(self.unfilled)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of its tensors unused ({_first(self.unused)})")
        if self.misfits:
            name = self.misfits[0]
            parts.append(
                f"{len(self.misfits)} of another shape or type (first {name},"
                f" {_describe(self.file_state[name])} in the file,"
                f" {_describe(self.model_state[name])} in the model)"
            )
        return ", ".join(parts)

    def _advice(self) -> str:
        names = self.unfilled + self.unused + self.misfits
        if all(name.startswith(TRUNK) for name in names):
            return "the trunk is another one; check MODEL.RESNETS.DEPTH and MODEL.RESNETS.NORM"
        if not is_queryinst(self.file_state):
            return (
                "these are weights of another architecture; name a QueryInst checkpoint or, to"
                " train, a backbone"
            )
        if self.unused:
            return "name other weights"
        return "name other weights, or allow it by MODEL.QUERYINST.ALLOW_UNLOADED"


def _is_ignorable(name: str) -> bool:
    return bool(_OPTIONAL.fullmatch(name) or _IGNORED.fullmatch(name))


def _first(names: Sequence[str]) -> str:
    return f"first {', '.join(names[:3])}" if len(names) > 3 else ", ".join(names)


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
