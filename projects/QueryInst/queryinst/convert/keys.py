"""What a checkpoint holds, for the user: groups of parameters, and kinds of shapes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

# In the order of the table; {} is a stage.
_GROUPS = (
    (re.compile(r"backbone\.bottom_up\."), "backbone"),
    (re.compile(r"backbone\.fpn_"), "FPN"),
    (re.compile(r"initial_queries\."), "queries"),
    (re.compile(r"cascade\.stages\.(\d+)\."), "box head, stage {}"),
    (re.compile(r"mask_head\.stages\.(\d+)\."), "mask head, stage {}"),
)
_OTHERS = "others"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=conv)\d+(?=\.)")


@dataclass(frozen=True)
class Group:
    """A part of the model; `num_parameters` does not count the statistics of batch norms."""

    name: str
    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]


def count_groups(state: Mapping[str, Tensor]) -> list[Group]:
    """The parts of a model, by this project's names, and "all" at the end."""
    parts: dict[tuple[int, int, str], dict[str, Tensor]] = {}
    for name, value in state.items():
        parts.setdefault(_part_of(name), {})[name] = value
    groups = [_count(label, parts[at, stage, label]) for at, stage, label in sorted(parts)]
    return [*groups, _count("all", state)]


def _part_of(name: str) -> tuple[int, int, str]:
    for at, (pattern, label) in enumerate(_GROUPS):
        if match := pattern.match(name):
            stage = int(match[1]) if pattern.groups else 0
            return at, stage, label.format(stage)
    return len(_GROUPS), 0, _OTHERS


def _count(label: str, state: Mapping[str, Tensor]) -> Group:
    sizes = [v.numel() for n, v in state.items() if not n.endswith(_STATISTICS)]
    return Group(label, len(state), sum(sizes), _dtypes(state.values()))


def _dtypes(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(sorted({_dtype(tensor) for tensor in tensors}))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Kind:
    """Parameters of one shape and dtype, of modules that differ only in their numbers."""

    name: str  # with * for the numbers and {a, b} for several parameters
    num_tensors: int
    shape: tuple[int, ...]
    dtype: str


def list_kinds(state: Mapping[str, Tensor]) -> list[Kind]:
    """The kinds of tensors by any layout's names, in the order of the state dict."""
    kinds: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        key = (_NUMBER.sub("*", f"{module}."), tuple(value.shape), _dtype(value))
        kinds.setdefault(key, []).append(leaf)
    listed = []
    for (module, shape, dtype), leaves in kinds.items():
        names = list(dict.fromkeys(leaves))
        leaf = names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"
        listed.append(Kind(f"{module.removeprefix('.')}{leaf}", len(leaves), shape, dtype))
    return listed
