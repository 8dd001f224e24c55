"""Which checkpoint a run resumes from: the newest in its folder that can be read."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from .files import read_checkpoint, remove_quietly
from .tensors import first_non_finite, named_tensors, unsupported_kind

TAG = "last_checkpoint"
_FINAL = "model_final.pth"
_NUMBERED = re.compile(r"model_(\d{1,18})\.pth")
_LEFTOVER = re.compile(r"model_\w+\.pth\.tmp")
_MAX_NAME = 255  # bytes
_MAX_ITERATION = 1 << 53
# What AdamW and SGD keep for each element of a parameter.
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def has_checkpoint(folder: str) -> bool:
    """Whether a folder has something to resume from, readable or not."""
    return bool(folder) and (
        PathManager.exists(os.path.join(folder, TAG)) or bool(_numbered_names(folder))
    )


def candidates(folder: str) -> tuple[list[str], list[str]]:
    """Names of checkpoints in a folder, in the order to try them; and what is wrong with the tag.

    First the one that `last_checkpoint` names, since a user can choose with it, and since the
    folder may have checkpoints of an earlier run. Then the others by their iterations: the newest
    before that one, and, for want of these, the newest after it.
    """
    tagged, problems = _tagged_name(folder)
    names = [name for name in _numbered_names(folder) if name != tagged]
    iterations = {name: _iteration_of(folder, name) for name in names}
    last = _iteration_of(folder, tagged) if tagged else float("inf")
    names.sort(key=lambda name: (iterations[name] <= last, iterations[name]), reverse=True)
    return ([tagged] if tagged else []) + names, problems


def _tagged_name(folder: str) -> tuple[str, list[str]]:
    """The file that `last_checkpoint` names, or "" and why there is none."""
    path = os.path.join(folder, TAG)
    try:
        with PathManager.open(path, "rb") as file:
            name = file.read(_MAX_NAME + 1).decode().strip()
    except FileNotFoundError:
        return "", [f"{path} does not exist"]
    except (OSError, UnicodeDecodeError) as error:
        return "", [f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not a text'})"]
    if not name:
        return "", [f"{path} is empty"]
    is_name = len(name) <= _MAX_NAME and name.isprintable() and name == os.path.basename(name)
    if not is_name or name in (".", ".."):
        return "", [f"{path} holds {name[:80]!r}, which is not the name of a file beside it"]
    return name, []


def _numbered_names(folder: str) -> list[str]:
    """The periodic checkpoints and the final one; of a remote folder only the tag is known."""
    if not os.path.isdir(folder):
        return []
    return [n for n in os.listdir(folder) if n == _FINAL or _NUMBERED.fullmatch(n)]


def _iteration_of(folder: str, name: str) -> float:
    """By the file's name, else by what it holds; infinity if it holds none."""
    if match := _NUMBERED.fullmatch(name):
        return int(match[1])
    try:
        checkpoint = read_checkpoint(os.path.join(folder, name), name, with_tensors=False)
        check_iteration(checkpoint, name)
        return checkpoint["iteration"]
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def check_iteration(state: Any, label: str) -> None:
    """Raise a ValueError if a state has an "iteration" that is none."""
    value = state.get("iteration", 0) if isinstance(state, Mapping) else 0
    if type(value) is not int or not 0 <= value <= _MAX_ITERATION:
        kind = value if type(value) is float else f"a {type(value).__name__} out of range"
        raise ValueError(f"{label}: its iteration is {kind}; it must be a whole number from 0")


def check_resumable(tensors: Mapping[str, Tensor], states: Mapping[str, Any], label: str) -> None:
    """Raise a ValueError unless all tensors in what is resumed are dense and finite.

    Args:
        tensors: the model's.
        states: those of the checkpointables.
    """
    named = list(named_tensors({"model": tensors, **states}))
    for name, value in named:
        if kind := unsupported_kind(value):
            raise ValueError(f"{label} is not resumed from: its {name} is {kind}")
    if (first := first_non_finite(named)) is not None:
        raise ValueError(f"{label} is not resumed from: its {first} has values that are not finite")
    for state in states.values():
        check_iteration(state, label)


def check_optimizer(owner: Any) -> None:
    """Raise a ValueError if the moments of an optimizer are not of its parameters' shapes.

    torch loads whatever is there, and fails in the first step.

    Args:
        owner: an optimizer, or what has one as `optimizer`; anything else passes.
    """
    optimizer = getattr(owner, "optimizer", owner)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return
    for parameter, state in optimizer.state.items():
        for key in _MOMENTS:
            value = state.get(key) if isinstance(state, Mapping) else state
            if value is not None and getattr(value, "shape", None) != parameter.shape:
                kind = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
                raise ValueError(
                    f"the optimizer's {key} is {kind}, for a parameter of shape"
                    f" {tuple(parameter.shape)}"
                )


def remove_leftovers(folder: str) -> None:
    """Remove what runs that were killed while they wrote a checkpoint have left.

    Only the process that writes may call this.
    """
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if _LEFTOVER.fullmatch(name) and not os.path.islink(path):  # a run writes no links
            remove_quietly(path)
