"""Files of torch.save, read within limits and with their checksums.

torch.load neither compares the checksums of a zip file with its content, so that a flipped bit
becomes another weight, nor limits what a file inflates to.
"""

import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from .file_kinds import kind_of_archive
from .limits import MemoryLimit
from .tensors import UnsupportedTensor
from .unpickling import BoundedFile, RefusedError, SafeUnpickler

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number
_LEGACY_VERSION = 1001
_MAX_DIRECTORY = 8_000_000  # bytes; 100 for each of 80,000 entries
_MAX_DIMS, _MAX_LENGTH = 64, 1 << 62

_PLAIN = (torch.dtype, torch.layout, torch.qscheme, torch.memory_format)
_CONSTANTS: dict[str, Any] = {
    f"torch.{name}": v for name, v in vars(torch).items() if isinstance(v, _PLAIN)
}
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QUInt8": torch.quint8,
    "QInt8": torch.qint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
}
for _name, _dtype in _STORAGES.items():
    _CONSTANTS |= {f"{m}.{_name}Storage": _dtype for m in ("torch", "torch.cuda")}
_CONSTANTS["torch.storage.UntypedStorage"] = torch.uint8
_CONSTANTS |= {"torch.Tensor": Tensor, "torch.nn.parameter.Parameter": Tensor}


def _unsupported(kind: str) -> Callable[..., UnsupportedTensor]:
    def rebuild(*_: Any) -> UnsupportedTensor:
        return UnsupportedTensor(kind)

    return rebuild


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(rebuild: Any, cls: Any, args: tuple[Any, ...], _: Any) -> Any:
    return rebuild(*args) if cls is Tensor else UnsupportedTensor("of a subclass")


def _size(lengths: Iterable[int] = ()) -> torch.Size:
    return torch.Size(_lengths(lengths))


def _device(*args: Any) -> torch.device:
    return torch.device(*args)


def _layout(name: str) -> str:
    return str(name)


_REBUILDS: dict[str, Any] = {
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_sparse_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_qtensor": _unsupported("quantized"),
    "torch._utils._rebuild_nested_tensor": _unsupported("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("on the meta device"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unsupported("of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _unsupported("of another device"),
    "torch._utils._rebuild_wrapper_subclass": _unsupported("of a subclass"),
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
}


@dataclass(frozen=True)
class _Storage:
    """Values of one dtype; `values` is None if only the rest of the file is read."""

    dtype: torch.dtype
    num_bytes: int
    values: torch.UntypedStorage | None


class _TorchUnpickler(SafeUnpickler):
    """As its base; tensors too, whose storages `read_storage` gives."""

    def __init__(self, file: Any, limit: MemoryLimit, read_storage: Callable[..., _Storage]):
        super().__init__(file, limit)
        self._read_storage = read_storage
        self._tensors = {
            "torch._utils._rebuild_tensor": self._rebuild,
            "torch._utils._rebuild_tensor_v2": self._rebuild,
            "torch._utils._rebuild_tensor_v3": self._rebuild_with_dtype,
        }

    def find_class(self, module: str, name: str) -> Any:
        """As its base's, and torch's functions, dtypes and storages."""
        path = f"{module}.{name}"
        for known in (self._tensors, _REBUILDS, _CONSTANTS):
            if path in known:
                return known[path]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that ("storage", type, key, device, number of elements, view) names."""
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str:
            raise RefusedError("a reference to what is not a storage")
        if view not in ([], [None]):
            raise RefusedError("a storage that is a part of another")
        (numel,) = _lengths([numel])
        return self._read_storage(key, dtype, numel * dtype.itemsize)

    def _rebuild_with_dtype(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _: Any,
        hooks: Any,
        dtype: Any,
        *more: Any,
    ) -> Any:
        untyped = _Storage(dtype, storage.num_bytes, storage.values)
        return self._rebuild(untyped, offset, size, stride, None, None, *more)

    def _rebuild(
        self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any
    ) -> Tensor | UnsupportedTensor:
        size, stride = _lengths(size), _lengths(stride)
        (offset,) = _lengths([offset])
        itemsize = storage.dtype.itemsize
        if any(more[2:]):
            return UnsupportedTensor("a conjugated or negated view")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and (last + 1) * itemsize > storage.num_bytes:
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        more_bytes = math.prod(size) * itemsize - storage.num_bytes
        if more_bytes > 0:
            if not self.limit.fits(more_bytes):
                return UnsupportedTensor(f"of shape {size} over {storage.num_bytes} bytes")
            self.limit.take(more_bytes)
        if storage.values is None:
            return torch.empty_strided(size, stride, dtype=storage.dtype, device="meta")
        return torch.empty(0, dtype=storage.dtype).set_(storage.values, offset, size, stride)


def _lengths(values: Any) -> tuple[int, ...]:
    values = tuple(values)
    if len(values) > _MAX_DIMS:
        raise RefusedError(f"a tensor of {len(values)} dimensions")
    if any(type(value) is not int or not 0 <= value <= _MAX_LENGTH for value in values):
        raise RefusedError("a tensor whose shape is not of lengths")
    return values


def load_zip(path: str, limit: MemoryLimit, with_tensors: bool) -> Any:
    """What a file of torch.save holds; each part that is read is compared with its checksum.

    Args:
        with_tensors: else they come on the meta device, and their values are not read.
    """
    with open(path, "rb") as file, _open_archive(file, limit) as archive:
        names = archive.namelist()
        objects = next((name for name in names if name.endswith("/data.pkl")), None)
        if objects is None:
            raise zipfile.BadZipFile("it has no data.pkl")
        root = objects.removesuffix("data.pkl")
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        storages: dict[str, _Storage] = {}

        def read_storage(key: str, dtype: torch.dtype, num_bytes: int) -> _Storage:
            if key not in storages:
                values = None
                if with_tensors:
                    values = _read_storage(archive, f"{root}data/{key}", num_bytes)
                    if big != (sys.byteorder == "big"):
                        values.byteswap(dtype)
                storages[key] = _Storage(dtype, num_bytes, values)
            elif storages[key].num_bytes != num_bytes:
                raise pickle.UnpicklingError("a storage of two sizes")
            return _Storage(dtype, num_bytes, storages[key].values)

        content = BoundedFile(io.BytesIO(archive.read(objects)))
        return _TorchUnpickler(content, limit, read_storage).load()


def verify_zip(path: str, limit: MemoryLimit) -> None:
    """Compare all parts with their checksums, as `load_zip` does, for another reader."""
    with open(path, "rb") as file, _open_archive(file, limit) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")


def _open_archive(file: IO[bytes], limit: MemoryLimit) -> zipfile.ZipFile:
    """The zip archive, whose directory fits what is in the file."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("its end is missing")
    if end[5] > _MAX_DIRECTORY:
        limit.take(end[5] * 10, "its directory of entries")
    archive = zipfile.ZipFile(file)
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    for entry, following in zip(entries, entries[1:]):
        if entry.header_offset + 30 + entry.compress_size > following.header_offset:
            raise zipfile.BadZipFile("two of its entries overlap")
    if len(set(archive.namelist())) != len(entries):
        raise zipfile.BadZipFile("two of its entries have one name")
    if kind := kind_of_archive(archive.namelist()):
        raise RefusedError(f"it is {kind}")
    limit.take(sum(entry.file_size for entry in entries))
    return archive


def _read_storage(archive: zipfile.ZipFile, name: str, num_bytes: int) -> torch.UntypedStorage:
    entry = archive.getinfo(name)
    if entry.file_size != num_bytes:  # before the memory is asked for
        raise zipfile.BadZipFile(f"{name!r} has {entry.file_size} bytes, not {num_bytes}")
    storage = torch.UntypedStorage(num_bytes)
    if num_bytes:
        values = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        with archive.open(entry) as part:
            if part.readinto(values.data) != len(values):  # type: ignore[attr-defined]
                raise EOFError(f"{name!r} ends early")
    return storage


def load_legacy(path: str, limit: MemoryLimit, with_tensors: bool) -> Any:
    """What a file of torch.save before 1.6 holds. It has no checksums."""
    storages: dict[str, _Storage] = {}

    def read_storage(key: str, dtype: torch.dtype, num_bytes: int) -> _Storage:
        if key not in storages:
            limit.take(num_bytes)
            if num_bytes > limit.file_size:
                raise EOFError(f"a storage of {num_bytes} bytes")
            values = torch.UntypedStorage(num_bytes) if with_tensors else None
            storages[key] = _Storage(dtype, num_bytes, values)
        return storages[key]

    with open(path, "rb") as opened:
        file = BoundedFile(opened)
        head = [SafeUnpickler(file, limit).load() for _ in range(3)]  # number, version, machine
        if head[1] != _LEGACY_VERSION or not head[2]["little_endian"]:
            raise pickle.UnpicklingError("another version, or byte order, of torch's format")
        content = _TorchUnpickler(file, limit, read_storage).load()
        if with_tensors:
            _fill_storages(file, storages, SafeUnpickler(file, limit).load())
        return content


def _fill_storages(file: BoundedFile, storages: dict[str, _Storage], keys: list[str]) -> None:
    """Read the values, which follow the pickles in the order of `keys`."""
    if sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("its storages are not those that its tensors need")
    for key in keys:
        storage = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        if numel * storage.dtype.itemsize != storage.num_bytes:
            raise EOFError(f"{numel} values in the place of {storage.num_bytes} bytes")
        if storage.num_bytes and storage.values is not None:
            values = torch.empty(0, dtype=torch.uint8).set_(storage.values)
            content = file.read(storage.num_bytes)
            if len(content) != storage.num_bytes:
                raise EOFError("it ends early")
            values.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
