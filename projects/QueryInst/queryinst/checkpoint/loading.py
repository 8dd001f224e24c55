"""The rules for missing, unexpected and mismatched keys, before anything in the model changes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fitting import differing_facts, differs_in_classes, is_queryinst, num_classes_of
from .inference_only import is_inference_only, training_only_names
from .layouts import BOTTOM_UP, note_on_second_tensors, to_model_names
from .tensors import require_finite

# A batch norm with momentum never reads the first; the configuration sets the others.
_OPTIONAL = re.compile(r"(.+\.)?num_batches_tracked|pixel_mean|pixel_std")
# The classifiers of backbones.
_IGNORED = re.compile(re.escape(BOTTOM_UP) + r"(stem\.)?(fc|linear)\..+")
_MASKS = "mask_head."
_MAX_NAME = 80  # characters of a file's key that a message quotes


@dataclass(frozen=True)
class MatchedStateDict:
    """What to copy, by the model's names, and one log line per key or kind of key that is not."""

    tensors: dict[str, Tensor]
    notes: list[str]

    def whole_state(self, model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`tensors` in the model's order, for a new file. Counters that the file lacks are 0."""
        state = {}
        for name, value in model_state.items():
            if name in self.tensors:
                state[name] = self.tensors[name]
            elif name.endswith("num_batches_tracked"):
                state[name] = torch.zeros(value.shape, dtype=value.dtype)
        return state


def match_state_dict(
    model_state: Mapping[str, Tensor],
    file_state: Mapping[str, Tensor],
    *,
    label: str,
    partial: bool,
    allow_unloaded: Sequence[str] = (),
    complete: bool = False,
) -> MatchedStateDict:
    """Match a file's tensors to a model's.

    Args:
        model_state: the model's state dict.
        file_state: the file's tensors, by the names of any layout that `layouts.to_model_names`
            supports.
        label: how messages name the file.
        partial: whether a backbone alone, or another class count, is enough, as to start training.
        allow_unloaded: MODEL.QUERYINST.ALLOW_UNLOADED, patterns from the start of a name.
        complete: whether no key may be missing, as to resume; overrides the two above.

    Raises:
        ValueError: keys are missing, unexpected or mismatched: one line with how many, which, and
            what to do. Or a value to copy is not finite: one line with the tensor's name.
        KeyError: the names are MMDetection's, and no rule supports one of them.
    """
    try:
        renamed = to_model_names(file_state, model_state)
    except KeyError as error:
        raise KeyError(f"{label}: {error.args[0]}") from error
    case = _Case(model_state, renamed, label)
    if note := note_on_second_tensors(None, file_state):
        case.notes.append(f"{label} has {note}")
    case.accept_training_only_mask_heads()
    if not complete:
        case.accept_unexpected_masks()
        case.accept_unloaded(allow_unloaded)
    if case.is_backbone_alone():
        case.accept_backbone(partial and not complete)
    elif partial and not complete:
        case.accept_class_count()
    case.refuse_the_rest()
    matched = case.matched()
    require_finite(matched.items(), label)
    return MatchedStateDict(matched, case.notes)


class _Case:
    """One file for one model: the keys that no rule has accepted yet, and notes on the others."""

    def __init__(
        self, model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor], label: str
    ):
        self.model_state, self.file_state, self.label = model_state, file_state, label
        self.notes: list[str] = []
        self.missing = [
            n for n in model_state if n not in file_state and not _OPTIONAL.fullmatch(n)
        ]
        self.unexpected = [n for n in file_state if n not in model_state and not _is_ignorable(n)]
        self.mismatched = [n for n in model_state if n in file_state and not self._matches(n)]

    def _matches(self, name: str) -> bool:
        ours, theirs = self.model_state[name], self.file_state[name]
        return ours.shape == theirs.shape and ours.is_floating_point() == theirs.is_floating_point()

    def matched(self) -> dict[str, Tensor]:
        shared = (name for name in self.model_state if name in self.file_state)
        return {name: self.file_state[name] for name in shared if self._matches(name)}

    def accept_unexpected_masks(self) -> None:
        """A box detector (MASK_ON False) can load the weights of a model with masks."""
        masks = [name for name in self.file_state if name.startswith(_MASKS)]
        has_masks = any(name.startswith(_MASKS) for name in self.model_state)
        if masks and not has_masks and is_queryinst(self.model_state):
            self.unexpected = [name for name in self.unexpected if not name.startswith(_MASKS)]
            self.notes.append(
                f"{self.label}: MODEL.MASK_ON is False, so its {len(masks)} keys of mask_head are"
                " not loaded"
            )

    def accept_training_only_mask_heads(self) -> None:
        """An inference-only model loads its part of a full file."""
        heads = set(training_only_names(self.file_state)) - self.model_state.keys()
        if heads and is_inference_only(self.model_state):
            self.unexpected = [name for name in self.unexpected if name not in heads]
            self.notes.append(
                f"{self.label}: MODEL.QUERYINST.INFERENCE_ONLY is True, so {len(heads)} keys of"
                " mask heads that only training runs are not loaded"
            )

    def accept_unloaded(self, patterns: Sequence[str]) -> None:
        """Parameters that the user names by pattern are re-initialized."""
        try:
            compiled = [re.compile(pattern) for pattern in patterns]
        except re.error as error:
            raise ValueError(
                f"MODEL.QUERYINST.ALLOW_UNLOADED {tuple(patterns)} must hold regular expressions:"
                f" {error}"
            ) from error
        accepted = self._accept(lambda name: any(pattern.match(name) for pattern in compiled))
        if accepted:
            self.notes.append(
                f"{self.label}: {len(accepted)} parameters are re-initialized, as"
                f" MODEL.QUERYINST.ALLOW_UNLOADED allows: {', '.join(accepted)}"
            )

    def _accept(self, is_accepted: Callable[[str], object]) -> list[str]:
        """Remove names from the missing and the mismatched keys, and return them."""
        accepted = [name for name in self.missing + self.mismatched if is_accepted(name)]
        self.missing = [name for name in self.missing if not is_accepted(name)]
        self.mismatched = [name for name in self.mismatched if not is_accepted(name)]
        return accepted

    def is_backbone_alone(self) -> bool:
        """Whether the file has nothing but bottom_up, and the model has more."""
        return all(n.startswith(BOTTOM_UP) for n in self.file_state) and not all(
            n.startswith(BOTTOM_UP) for n in self.model_state
        )

    def accept_backbone(self, is_allowed: bool) -> None:
        """Training can start from bottom_up alone, but bottom_up must be complete."""
        if not is_allowed:
            raise ValueError(
                f"{self.label} holds only a backbone; evaluation, prediction and --resume need a"
                " whole QueryInst, only a new training can start from a backbone"
            )
        self._accept(lambda name: not name.startswith(BOTTOM_UP))
        loaded = [name for name in self.matched() if not _OPTIONAL.fullmatch(name)]
        if not self._is_incomplete():
            self.notes.append(
                f"Backbone weights from {self.label}: all {len(loaded)} keys of bottom_up are"
                " loaded; the rest is re-initialized"
            )

    def accept_class_count(self) -> None:
        """Training can start from another class count, if only the class layers differ."""
        is_whole = not self.missing and not self.unexpected
        if is_whole and differs_in_classes(self.model_state, self.file_state, self.mismatched):
            layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self.mismatched))
            self.notes.append(
                f"{self.label} has {num_classes_of(self.file_state)} classes,"
                f" MODEL.ROI_HEADS.NUM_CLASSES is {num_classes_of(self.model_state)}: these"
                f" {len(layers)} layers are re-initialized: {', '.join(layers)}"
            )
            self.mismatched = []

    def _is_incomplete(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def refuse_the_rest(self) -> None:
        """Raise a ValueError if no rule has accepted some key."""
        if not self._is_incomplete():
            return
        if facts := differing_facts(self.model_state, self.file_state):
            raise ValueError(
                f"{self.label} does not fit the configuration: {'; '.join(facts)}; set the keys to"
                " what the file has, or name other weights"
            )
        raise ValueError(f"{self.label} does not fit the model: {self._count()}; {self._advice()}")

    def _count(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing keys ({_first(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected keys ({_first(self.unexpected)})")
        if self.mismatched:
            name = self.mismatched[0]
            parts.append(
                f"{len(self.mismatched)} mismatched keys (first {name},"
                f" {_describe(self.file_state[name])} in the file,"
                f" {_describe(self.model_state[name])} in the model)"
            )
        return ", ".join(parts)

    def _advice(self) -> str:
        names = self.missing + self.unexpected + self.mismatched
        if all(name.startswith(BOTTOM_UP) for name in names):
            return "bottom_up is another ResNet; check MODEL.RESNETS.DEPTH and MODEL.RESNETS.NORM"
        if not is_queryinst(self.file_state):
            return (
                "these are weights of another architecture; name a QueryInst checkpoint or, for"
                " training, a backbone"
            )
        if self.unexpected:
            return "name other weights"
        return "name other weights, or allow it with MODEL.QUERYINST.ALLOW_UNLOADED"


def _is_ignorable(name: str) -> bool:
    return bool(_OPTIONAL.fullmatch(name) or _IGNORED.fullmatch(name))


def _first(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"first {_first(names[:3])}"
    return ", ".join(name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..." for name in names)


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
