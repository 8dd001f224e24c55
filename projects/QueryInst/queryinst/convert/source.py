"""The file to convert: its weights by this project's names, and its `meta`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checkpoint.files import fetch, read_checkpoint, sha256_of
from ..checkpoint.fitting import is_queryinst
from ..checkpoint.layouts import (
    BOTTOM_UP,
    is_average,
    note_on_second_tensors,
    second_tensors_of,
    tensors_of,
    to_model_names,
)
from ..checkpoint.meta import checked_meta
from ..checkpoint.mmdet import folded_names, ignored_names, is_mmdet
from ..checkpoint.tensors import require_finite

_WEIGHTS = ("model", "state_dict", "blobs", "meta", "ema_state_dict", "ema")


@dataclass(frozen=True)
class Source:
    """A checkpoint in any layout that the loader supports.

    Attributes:
        path: as it was given, a path or a URL.
        digest: sha256 of the file, in hexadecimal.
        layout: whose names the file uses, in words.
        state: its weights by this project's names.
        meta: the file's, by whatever keys; or {}.
        notes: one line for each thing that is changed or left out.
    """

    path: str
    digest: str
    layout: str
    state: dict[str, Tensor]
    meta: dict[str, Any]
    notes: tuple[str, ...]


def local_file(path: str) -> str:
    """The local file of a path or URL; errors as `checkpoint.files.fetch`."""
    return fetch(path, path)


def read_source(path: str, local: str, *, allow_pickle: bool, ema: bool = False) -> Source:
    """Read the file.

    Args:
        path: as the user gave it.
        local: the file itself (`local_file`).
        allow_pickle: load any Python object, and so execute what the file holds.
        ema: take the second set of weights of a run with an EMAHook (`second_tensors_of`).

    Raises:
        ValueError, KeyError, OSError: the file cannot be read, or its layout is unknown. One line.
    """
    digest = sha256_of(local)
    checkpoint = read_checkpoint(local, path, allow_pickle=allow_pickle)
    tensors = (second_tensors_of if ema else tensors_of)(checkpoint, path)
    # Without a model at hand, one name of a bare ResNet stands for all.
    backbone_names = [f"{BOTTOM_UP}stem.conv1.weight"] if "stem.conv1.weight" in tensors else []
    try:
        state = to_model_names(tensors, backbone_names)
    except KeyError as error:
        raise KeyError(f"{path}: {error.args[0]}") from error
    is_backbone = all(name.startswith(BOTTOM_UP) for name in state)
    if not is_backbone and not is_queryinst(state):
        raise ValueError(
            f"{path}: its {len(tensors)} tensors, first {next(iter(tensors))!r}, have no known"
            " layout: a QueryInst of this project or MMDetection, or a ResNet"
        )
    require_finite(state.items(), path)
    checked_meta(checkpoint, path)
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    layout = _layout_of(tensors, is_backbone)
    notes = _notes(checkpoint, tensors)
    if is_average(checkpoint):
        notes.append(
            "the averages of SOLVER.EMA are taken; those that training goes on from are" " left out"
        )
    elif ema:
        notes.append("the second of two sets of weights is taken (--ema), the plain keys left out")
    elif note := note_on_second_tensors(checkpoint, tensors):
        notes.append(note)
    return Source(path, digest, layout, state, meta if isinstance(meta, dict) else {}, tuple(notes))


def _layout_of(tensors: Mapping[str, Tensor], is_backbone: bool) -> str:
    if is_mmdet(tensors):
        return "MMDetection's names"
    return "a backbone's names" if is_backbone else "this project's names"


def _notes(checkpoint: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    notes = []
    if is_mmdet(tensors):
        if folded := folded_names(tensors):
            stages = {re.findall(r"mask_head\.(\d+)", name)[0] for name in folded}
            notes.append(
                f"folded into the running means after them: {len(folded)} biases in {len(stages)}"
                f" mask heads, first {folded[0]}"
            )
        if ignored := ignored_names(tensors):
            notes.append(f"left out: {len(ignored)} tensors that no model here has: {ignored}")
    has_parts = isinstance(checkpoint, Mapping) and any(key in checkpoint for key in _WEIGHTS)
    if has_parts and (rest := [str(key)[:80] for key in checkpoint if key not in _WEIGHTS]):
        notes.append(f"left out, because these are not weights: {', '.join(rest)}")
    return notes
