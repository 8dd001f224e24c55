"""A checkpoint in four formats, and the edits that make a hostile one of it.

An edit is a list of types that JSON has:

- ["bytes", edit of `hostile.edit_bytes`],
- ["content", keys from the top, operation, value]: before the file is written,
- ["zip", operation, place, number]: an entry of torch's archive,
- ["pickle", name]: `hostile_pickles`,
- ["header", keys, operation, value]: of a safetensors file.
"""

import copy
import functools
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from queryinst.checkpoint.safetensors_files import compact, safetensors_bytes

from . import hostile
from .hostile_pickles import pickle_of

FORMATS = {"pth": ".pth", "legacy": ".pth", "pkl": ".pkl", "safetensors": ".safetensors"}
Edit = Sequence[Any]


def write(tree: Mapping[str, Any], format: str) -> bytes:
    """The bytes of a checkpoint."""
    if format == "safetensors":
        return safetensors_bytes(compact(tree["model"]), tree.get("meta"))
    if format == "pkl":
        return pickle.dumps(_with_arrays(tree), 2)
    buffer = io.BytesIO()
    torch.save(tree, buffer, _use_new_zipfile_serialization=format == "pth")
    return buffer.getvalue()


def _with_arrays(value: Any) -> Any:
    """The same content with numpy's arrays, which plain pickles hold."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy() if value.layout == torch.strided else "sparse"
    if isinstance(value, dict):
        return {key: _with_arrays(item) for key, item in value.items()}
    return [_with_arrays(item) for item in value] if isinstance(value, (list, tuple)) else value


def edited(data: bytes, tree: Mapping[str, Any], format: str, edits: Sequence[Edit], mark: str):
    """`data`, which is `write(tree, format)`, after the edits.

    Args:
        mark: the folder that hostile code would make.
    """
    if content := [edit for edit in edits if edit[0] == "content"]:
        changed = copy.copy(tree)
        for edit in content:
            changed = _with_content(changed, *edit[1:])
        try:
            data = write(changed, format)
        except Exception:  # what the writer refuses is no input of the reader
            pass
    for kind, *arguments in edits:
        if kind == "bytes":
            data = hostile.edit_bytes(data, arguments[0])
        elif kind == "zip":
            data = _edit_zip(data, *arguments)
        elif kind == "pickle":
            data = _with_pickle(data, pickle_of(arguments[0], mark))
        elif kind == "header":
            data = _edit_header(data, *arguments)
    return data


def _with_content(tree: Any, keys: Sequence[Any], operation: str, value: Any) -> Any:
    """The tree with one change at `keys`; what is not on the way is shared with the old one."""
    if not keys:
        return _make(value, tree)
    key, changed = keys[0], copy.copy(tree)
    try:
        old = tree[key]
    except (KeyError, IndexError, TypeError):  # an earlier edit has removed it
        return tree
    if len(keys) > 1 or operation == "set":
        changed[key] = _with_content(old, keys[1:], operation, value)
    elif operation == "remove":
        del changed[key]
    elif isinstance(changed, dict) and operation in ("rename", "add"):
        changed[_key(value)] = old
        if operation == "rename":
            del changed[key]
    return changed


def _key(value: Any) -> Any:
    """The value, if it can be hashed, else one that can."""
    return value if value.__hash__ is not None else str(value)


def _make(value: Any, old: Any) -> Any:
    """The value; one that begins with "tensor:" is made of the tensor that was there."""
    if isinstance(value, str) and value.startswith("tensor:"):
        tensor = old if isinstance(old, torch.Tensor) else torch.ones(2, 3)
        return TENSORS[value.removeprefix("tensor:")](tensor.detach())
    return hostile.expand(value) if isinstance(value, str) and len(value) < 100 else value


def _filled(number: float):
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.float().clone().reshape(-1)
        changed[:1] = number
        return changed.reshape(tensor.shape)

    return fill


TENSORS = {
    "sparse": lambda t: t.float().to_sparse(),
    "sparse_csr": lambda t: t.float().reshape(len(t) if t.dim() else 1, -1).to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
    "nan": _filled(float("nan")),
    "inf": _filled(float("-inf")),
    "double": lambda t: t.double(),
    "long": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "shorter": lambda t: t.reshape(-1)[1:],
    "longer": lambda t: torch.cat([t.reshape(-1)] * 2),
    "flat": lambda t: t[None],
    "empty": lambda t: t.new_zeros(0),
    "scalar": lambda t: t.new_zeros(()),
    "expanded": lambda t: t.new_zeros(1).expand(10**6, 10**6),
    "parameter": lambda t: torch.nn.Parameter(t.float()),
    "list": lambda t: t.tolist(),
    "array": lambda t: t.numpy(),
    "objects": lambda t: t.numpy().astype(object),
    "size": lambda t: t.shape,
    "dtype": lambda t: t.dtype,
    "device": lambda t: torch.device("cpu"),
    "storage": lambda t: t.untyped_storage(),
}


class _Entry(NamedTuple):
    name: bytes
    data: bytes  # as in the file
    method: int  # 0 stored, 8 deflated
    crc: int
    size: int  # inflated


@functools.cache
def _bomb(mebibytes: int) -> tuple[bytes, int, int]:
    """Zeros: deflated, their checksum, their size."""
    chunk, packer = bytes(1 << 20), zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush each chunk is deflated to the same bytes.
    packed = (packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)) * mebibytes + packer.flush()
    crc = 0
    for _ in range(mebibytes):
        crc = zlib.crc32(chunk, crc)
    return packed, crc, mebibytes << 20


_MAX_CONTENT = 32 << 20  # bytes, inflated
ZIP_EDITS = ("drop", "rename", "double", "deflate", "bomb", "size", "crc", "text", "move", "folder")


def _edit_zip(data: bytes, operation: str, place: float, number: int) -> bytes:
    """Change one entry of the archive; the others' checksums stay right."""
    entries = _entries(data)
    if not entries:
        return data
    index = 0 if place < 0.3 else min(int(place * len(entries)), len(entries) - 1)
    entry = entries[index]
    if operation == "drop":
        del entries[index]
    elif operation == "double":
        entries.append(entry)
    elif operation == "move":
        entries.append(entries.pop(index))
    else:
        entries[index] = _edit_entry(entry, operation, number)
    return _zip(entries)


def _edit_entry(entry: _Entry, operation: str, number: int) -> _Entry:
    if operation == "rename":
        return entry._replace(
            name=(entry.name + b"x", b"../x", b"/x", b"", b"x/version")[number % 5]
        )
    if operation == "folder":
        return entry._replace(name=b"other/" + entry.name.rpartition(b"/")[2])
    if operation == "deflate":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return entry._replace(data=packer.compress(entry.data) + packer.flush(), method=8)
    if operation == "bomb":
        packed, crc, size = _bomb((64, 400, 1500)[number % 3])
        return _Entry(entry.name, packed, 8, crc, size)
    if operation == "size":
        return entry._replace(size=(0, 1, 2**31, 2**32 - 2, entry.size + 1)[number % 5])
    if operation == "crc":
        return entry._replace(crc=entry.crc ^ (1 << number % 32))
    return _entry(
        entry.name.decode(), (b"", b"big", b"\xff" * 9, b"9" * 5000, b"little\n")[number % 5]
    )


def _entries(data: bytes) -> list[_Entry]:
    """Those of an archive; none if it is no archive, or an earlier edit has damaged it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_CONTENT:
                return []  # an earlier edit has made a bomb of it
            return [_entry(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged archives raise nearly anything
        return []


def _entry(name: str, data: bytes) -> _Entry:
    return _Entry(name.encode(), data, 0, zlib.crc32(data), len(data))


def _zip(entries: Sequence[_Entry]) -> bytes:
    """An archive, with sizes and checksums as the entries say they are."""
    body, directory = bytearray(), bytearray()
    for name, data, method, crc, size in entries:
        fields = struct.pack(
            "<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(data), size, len(name), 0
        )
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\x03\x04" + fields + name + data
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\x05\x06" + end


def _with_pickle(data: bytes, pickled: bytes) -> bytes:
    """The pickle in the place of the archive's own, or alone."""
    entries = _entries(data)
    names = [entry.name.rpartition(b"/")[2] for entry in entries]
    if b"data.pkl" not in names:
        return data if data.startswith(b"PK") else pickled
    index = names.index(b"data.pkl")
    entries[index] = _entry(entries[index].name.decode(), pickled)
    return _zip(entries)


def _edit_header(data: bytes, keys: Sequence[Any], operation: str, value: Any) -> bytes:
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        text = hostile.expand(json.dumps(_with_content(header, keys, operation, value))).encode()
    except (ValueError, TypeError):  # damaged by an earlier edit, or no JSON
        return data
    claimed = value if operation == "length" else len(text)
    return (claimed % 2**64).to_bytes(8, "little") + text + data[8 + length :]
