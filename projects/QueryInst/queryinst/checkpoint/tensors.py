"""Tensors in a checkpoint: which kinds are loaded, and whether their values are finite."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_EXPANDED = 64_000_000  # bytes of a tensor beyond its storage, which copies would take


@dataclass(frozen=True)
class UnsupportedTensor:
    """In the place of a tensor that no model here can load.

    Attributes:
        kind: "sparse" and the like, to go on after "is".
    """

    kind: str


_NAMED = (Tensor, UnsupportedTensor, np.ndarray, Mapping, list, tuple)


def unsupported_kind(value: Any) -> str | None:
    """Why a tensor in a file is not loaded, to go on after "is"; None if it is."""
    if isinstance(value, UnsupportedTensor):
        return value.kind
    if not isinstance(value, Tensor):
        return None
    if type(value) not in (Tensor, torch.nn.Parameter):
        return f"a {type(value).__name__}"
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantized"
    if value.is_meta:
        return "on the meta device"
    if value.is_complex():
        return "complex"
    stored = value.untyped_storage().nbytes()
    if value.nbytes > stored + MAX_EXPANDED:
        return f"of shape {tuple(value.shape)} over {stored} bytes"
    return None


def first_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of a tensor with a NaN or an infinity.

    Sums show both in one pass without a copy, and are waited for once per device. Only the values
    of a sum that is not finite, which may have overflowed, are looked at one by one.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append((name, tensor.detach()))
    for named in by_device.values():
        sums = torch.stack([tensor.sum(dtype=torch.float32) for _, tensor in named])
        for index in (~sums.isfinite()).nonzero().flatten().tolist():
            name, tensor = named[index]
            if not tensor.double().isfinite().all():
                return name
    return None


def require_finite(tensors: Iterable[tuple[str, Tensor]], label: str) -> None:
    """Raise a ValueError that names the first tensor with a NaN or an infinity."""
    if (name := first_non_finite(tensors)) is not None:
        raise ValueError(
            f"{label} is not loaded: its tensor {name} has values that are not finite; the training"
            " diverged before, so name an earlier checkpoint"
        )


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors and arrays in nested containers, supported or not, each container once."""
    pending, seen = [(name, value)], set()
    while pending:
        name, value = pending.pop()
        if isinstance(value, (Tensor, UnsupportedTensor)):
            yield name, value
        elif isinstance(value, np.ndarray):
            if value.dtype.kind == "f":
                yield name, torch.from_numpy(value.astype(np.float64))
        elif id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            inner = [(key, item) for key, item in items if isinstance(item, _NAMED)]
            for key, item in inner:
                part = " ".join(str(key)[:80].split())
                pending.append((f"{name}.{part}" if name else part, item))
