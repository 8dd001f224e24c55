"""Safetensors files: tensors by name, and this project's meta as one JSON text in the header."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .limits import MemoryLimit, TooLargeError

_META_KEY = "queryinst"
_DIGEST_KEY = "queryinst_sha256"
_MAX_HEADER_OF_FORMAT = 100_000_000  # bytes
_MAX_HEADER = 4_000_000  # bytes, unless a limit is chosen; 10,000 tensors take 1,000,000
# JSON has only text for keys: a dict with others is written as {_PAIRS: [[key, value], ...]}.
_PAIRS = "__pairs__"


def is_safetensors(path: str, head: bytes) -> bool:
    """Whether a file starts as one does, with its header's length and the header in JSON."""
    length = int.from_bytes(head[:8], "little")
    return path.endswith(".safetensors") or (head[8:9] == b"{" and length <= _MAX_HEADER_OF_FORMAT)


def read_safetensors(
    path: str, label: str, limit: MemoryLimit, *, with_tensors: bool = True
) -> dict[str, Any]:
    """{"model": tensors on the CPU, "meta": dict}; "meta" only if this project wrote it.

    Args:
        with_tensors: False leaves "model" empty.

    Raises:
        ValueError: the file is truncated or damaged, also if its content does not have the digest
            that this project wrote; or it is larger than the limit. One line that starts with
            `label`.
        OSError: the file cannot be read.
    """
    try:
        _check_header(path, limit)
        with safe_open(path, "pt", device="cpu") as file:
            header, names = file.metadata() or {}, file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
        text = header.get(_META_KEY)
        if with_tensors and header.get(_DIGEST_KEY, "") not in ("", _digest(tensors, text)):
            raise ValueError("its content does not have the sha256 in its header")
        checkpoint: dict[str, Any] = {"model": tensors}
        if text is not None:
            checkpoint["meta"] = _from_json(json.loads(text))
    except TooLargeError as error:
        raise ValueError(f"{label} {error}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        cause = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{label} is truncated or damaged ({cause}); copy or download it again"
        ) from error
    return checkpoint


def _check_header(path: str, limit: MemoryLimit) -> None:
    """Compare the header's length, which is to be parsed, with the limit."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    most = limit.max_bytes if limit.is_chosen else _MAX_HEADER
    if length > most and length + 8 <= limit.file_size:
        MemoryLimit(most, limit.file_size, limit.is_chosen).take(length, "its header")
    limit.take(limit.file_size)


def _digest(tensors: Mapping[str, Tensor], meta: str | None) -> str:
    """sha256 of the meta's text, and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(meta).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        values = tensor.contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(values.numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def safetensors_bytes(tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None) -> bytes:
    """The bytes of a file with these tensors (see `compact`) and this meta of plain types.

    Tuples come back as lists; keys that are numbers come back as numbers. Readers that do not know
    the digest, which is beside the meta in the header, load the file as any other.
    """
    text = None if meta is None else json.dumps(_to_json(meta))
    header = {} if text is None else {_META_KEY: text}
    return save(dict(tensors), {**header, _DIGEST_KEY: _digest(tensors, text)})


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
