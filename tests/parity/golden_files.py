"""Records as small files: float tensors by evenly spaced elements and their norm, others whole."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def sample(value: Tensor, limit: int) -> Tensor:
    """At most `limit` evenly spaced elements of a tensor, behind them the norm of it all.

    Integers and bools stay whole, as they have to be equal.
    """
    if not value.is_floating_point():
        return value
    flat = value.detach().double().flatten()
    if flat.numel() > limit:
        index = torch.from_numpy(np.linspace(0, flat.numel() - 1, limit).round().astype(np.int64))
    else:
        index = torch.arange(flat.numel())
    return torch.cat([flat[index], flat.norm()[None]])


def sample_all(record: Mapping[str, Tensor], limit: int) -> dict[str, Tensor]:
    return {key: sample(value, limit) for key, value in record.items()}


def save_record(path: Path, record: Mapping[str, Tensor], limit: int) -> None:
    """A compressed .npz; bools packed eight to a byte, with their shape."""
    arrays = {}
    for key, value in sample_all(record, limit).items():
        if value.dtype == torch.bool:
            arrays[f"{key}:shape"] = np.array(value.shape)
            arrays[f"{key}:bits"] = np.packbits(value.numpy())
        else:
            arrays[key] = value.numpy()
    np.savez_compressed(path, **arrays)


def load_record(path: Path) -> dict[str, Tensor]:
    """What `save_record` wrote."""
    record = {}
    with np.load(path) as arrays:
        for key in arrays:
            name, _, kind = key.partition(":")
            if kind == "shape":
                shape = tuple(arrays[key])
                bits = np.unpackbits(arrays[f"{name}:bits"], count=int(np.prod(shape)))
                record[name] = torch.from_numpy(bits.astype(bool).reshape(shape))
            elif not kind:
                record[name] = torch.from_numpy(arrays[key])
    return record
