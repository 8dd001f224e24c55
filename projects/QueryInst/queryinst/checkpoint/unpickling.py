"""Pickles of others: which objects they may hold, and how they are read within limits.

Nothing in them is executed. Python's own reader in C cannot be bounded: one opcode of five bytes
makes it allocate 32 GB. This is the one in Python, restricted, as torch's for `weights_only` is.
"""

import math
import os
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import IO, Any

import numpy as np

from .limits import MemoryLimit

# What arrays and scalars pickle to. numpy itself tells, because its modules have moved.
_ARRAY_FROM_NOTHING: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_DTYPE_CODE = re.compile(r"[<>=|]?(?:[?bBhHiIlLqQefdgFDG]|[biufc]\d{1,2}|[SU]\d{0,6})")

# Keys that are hashed in constant time, as nested tuples are not.
_KEYS = (str, bytes, float, complex, bool, type(None), np.bool_, np.number)
_MAX_KEY_BITS, _MAX_KEY_ITEMS = 60, 16

_CHUNK = 1 << 16  # bytes


class RefusedError(pickle.UnpicklingError):
    """A pickle holds what no checkpoint needs; the message says what."""


class BoundedFile:
    """Reads no more than there is left; Python's files first allocate what they are asked for."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self.readline = file.readline
        file.seek(0)

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, as many as asked for if there are so many."""
        if num_bytes > _CHUNK:
            num_bytes = min(num_bytes, self._size - self._file.tell())
        return self._file.read(num_bytes)


def _refuse(reader: Any) -> None:
    raise RefusedError("an opcode of other pickles")


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        for item in key if type(key) is tuple and len(key) <= _MAX_KEY_ITEMS else (key,):
            is_small = type(item) is int and item.bit_length() <= _MAX_KEY_BITS
            if not is_small and not isinstance(item, _KEYS):
                raise RefusedError(f"a key of type {type(item).__name__}")


def _bytes(*args: Any) -> bytes:
    return bytes(_bytearray(*args))


def _bytearray(*args: Any) -> bytearray:
    """A copy of bytes; a number would allocate as many."""
    if args and not isinstance(args[0], (bytes, bytearray, str, list)):
        raise RefusedError(f"bytes of a {type(args[0]).__name__}")
    return bytearray(*args)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What bytes are in pickles of protocol 2; no other codec is looked up."""
    if encoding != "latin1":
        raise RefusedError(f"codec {encoding!r} in a pickle")
    return text.encode("latin1")


def _set(items: Iterable[Any] = ()) -> set[Any]:
    items = list(items)
    _check_keys(items)
    return set(items)


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _ordered_dict(pairs: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    pairs = [(key, value) for key, value in pairs]
    _check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _counter(counts: dict[Any, Any]) -> dict[Any, Any]:
    if not isinstance(counts, dict):
        raise RefusedError(f"counts in a {type(counts).__name__}")
    return Counter(counts)


def _dtype(code: str, *_: Any) -> np.dtype:
    """A dtype of numbers or short texts, as a copy: pickles set its byte order in place."""
    if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
        raise RefusedError(f"the dtype {str(code)[:80]!r}")
    return np.dtype(code, False, True)  # type: ignore[call-overload]


def _empty_array(*_: Any) -> np.ndarray:
    """The start of an array, which `_fill_array` goes on with; pickles give it no size."""
    return _ARRAY_FROM_NOTHING(np.ndarray, (0,), b"b")


def _array_from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> Any:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)  # type: ignore


def _scalar(dtype: np.dtype, data: Any) -> Any:
    """One number. numpy would take any size of the dtype, and zeros for missing data."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, np.dtype) or len(data) != dtype.itemsize:
        raise RefusedError("a scalar whose bytes are not those of its dtype")
    return _SCALAR(dtype, data)


def _fill_dtype(dtype: np.dtype, state: Any) -> None:
    dtype.__setstate__((3, str(state[1]), *dtype.__reduce__()[2][2:]))  # type: ignore


def _fill_array(array: np.ndarray, state: Any) -> None:
    _, shape, dtype, is_fortran, data = state
    is_plain = isinstance(dtype, np.dtype) and isinstance(data, (bytes, str))
    if not is_plain or any(type(length) is not int or length < 0 for length in shape):
        raise RefusedError("an array that is not of plain bytes")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise RefusedError(f"an array of {len(data)} bytes with another shape")
    array.__setstate__((1, tuple(shape), dtype, bool(is_fortran), data))  # type: ignore


def _allowed_globals() -> dict[str, Any]:
    allowed: dict[str, Any] = {
        "numpy.ndarray": "numpy.ndarray",  # alone the name of what is made
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode_latin1,
        "collections.OrderedDict": _ordered_dict,
        "collections.Counter": _counter,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        allowed[f"{core}.multiarray._reconstruct"] = _empty_array
        allowed[f"{core}.multiarray.scalar"] = _scalar
        allowed[f"{core}.numeric._frombuffer"] = _array_from_buffer
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        for plain in (_set, _frozenset, _bytes, _bytearray, _complex):
            allowed[f"{builtins}.{plain.__name__[1:]}"] = plain
    return allowed


_ALLOWED = _allowed_globals()
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]

# Opcodes that make objects -> the bytes that one may take.
_COSTS = dict.fromkeys((pickle.MEMOIZE, pickle.LONG_BINPUT, pickle.PUT), 100)
_COSTS |= dict.fromkeys((pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET), 200)
_COSTS |= dict.fromkeys((pickle.MARK, pickle.LIST, pickle.DICT, pickle.FROZENSET), 200)
_COSTS |= dict.fromkeys((pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3), 100)
_COSTS |= {pickle.REDUCE: 1000}
_REFUSED = [pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.NEXT_BUFFER]
_REFUSED += [pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.READONLY_BUFFER]


def _counted(read: Callable[[Any], None], cost: int) -> Callable[[Any], None]:
    def read_counted(reader: Any) -> None:
        reader.limit.take(cost)
        read(reader)

    return read_counted


class SafeUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Loads numpy arrays, dtypes, scalars and plain containers; nothing that could run code."""

    def __init__(self, file: Any, limit: MemoryLimit):
        super().__init__(file, encoding="latin1")
        self.limit = limit

    def find_class(self, module: str, name: str) -> Any:
        """What makes the allowed objects of that name.

        Raises:
            RefusedError: the object is not allowed. The message names it.
        """
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise RefusedError(f"GLOBAL {module}.{name} was not an allowed global") from None

    def _reduce(self) -> None:
        args, make = self.stack.pop(), self.stack[-1]
        if not isinstance(make, (FunctionType, MethodType)):
            raise RefusedError(f"a call of a {type(make).__name__}")
        self.stack[-1] = make(*args)

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.ndarray):
            _fill_array(target, state)
        elif isinstance(target, np.dtype):
            _fill_dtype(target, state)
        elif not isinstance(target, OrderedDict):  # torch's state dicts have an attribute _metadata
            raise RefusedError(f"the state of a {type(target).__name__}")

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise RefusedError(f"an item of a {type(target).__name__}")
        _check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))

    def _additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is not set:
            raise RefusedError(f"a member of a {type(target).__name__}")
        target.update(_set(items))

    def _pop_frozenset(self) -> None:
        self.append(_frozenset(self.pop_mark()))

    def _bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(length)))

    dispatch = dict(_PythonUnpickler.dispatch)
    dispatch |= {opcode[0]: _refuse for opcode in _REFUSED}
    dispatch |= {pickle.REDUCE[0]: _reduce, pickle.BUILD[0]: _build, pickle.DICT[0]: _dict}
    dispatch |= {pickle.SETITEM[0]: _setitem, pickle.SETITEMS[0]: _setitems}
    dispatch |= {pickle.ADDITEMS[0]: _additems, pickle.FROZENSET[0]: _pop_frozenset}
    dispatch |= {pickle.BYTEARRAY8[0]: _bytearray8}
    for _opcode, _cost in _COSTS.items():
        dispatch[_opcode[0]] = _counted(dispatch[_opcode[0]], _cost)


def load_pickle(path: str, limit: MemoryLimit) -> Any:
    """What a plain pickle of numpy arrays holds."""
    with open(path, "rb") as file:
        return SafeUnpickler(BoundedFile(file), limit).load()
