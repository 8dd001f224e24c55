"""Safetensors files: tensors by name, and this project's meta as one JSON text in the header."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_META_KEY = "queryinst"
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
# JSON has only text for keys: a dict with others is written as {_PAIRS: [[key, value], ...]}.
_PAIRS = "__pairs__"


def is_safetensors(path: str, head: bytes) -> bool:
    """Whether a file starts as one does, with its header's length and the header in JSON."""
    length = int.from_bytes(head[:8], "little")
    return path.endswith(".safetensors") or (head[8:9] == b"{" and length <= _MAX_HEADER)


def read_safetensors(path: str, label: str) -> dict[str, Any]:
    """{"model": tensors on the CPU, "meta": dict}; "meta" only if this project wrote it.

    Raises:
        ValueError: the file is truncated or damaged. One line that starts with `label`.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, "pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_META_KEY)
            checkpoint: dict[str, Any] = {"model": {n: file.get_tensor(n) for n in file.keys()}}
        if text is not None:
            checkpoint["meta"] = _from_json(json.loads(text))
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{label} is truncated or damaged ({cause}); copy or download it again"
        ) from error
    return checkpoint


def safetensors_bytes(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None) -> bytes:
    """The bytes of a file with these tensors (see `compact`) and this meta of plain types.

    Tuples come back as lists; keys that are numbers come back as numbers.
    """
    header = None if meta is None else {_META_KEY: json.dumps(_to_json(meta))}
    return save(dict(tensors), header)


def compact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, each contiguous, with a storage of its own and no larger.

    A file cannot hold shared storages, and would hold all of a storage for a part of it.
    """
    compacted, seen = {}, set()
    for name, value in state.items():
        tensor = value.detach().cpu()
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous() or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        compacted[name] = tensor
    return compacted


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value):
            return {key: _to_json(item) for key, item in value.items()}
        return {_PAIRS: [[key, _to_json(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_PAIRS}:
            return {key: _from_json(item) for key, item in value[_PAIRS]}
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value
