"""Pickles, inside and outside of torch.save's files: what they may hold, and how they are read.

Only the two functions that say so execute what a pickle holds.
"""

import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

# What arrays, dtypes and scalars pickle to. numpy itself tells, because its modules have moved.
_ARRAY_FROM_NOTHING: Any = np.zeros(1).__reduce__()[0]
_ARRAY_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMERIC = "? b B h H i I l L q Q e f d g F D G".split()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What bytes are in pickles of protocol 2; no other codec is looked up."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r} in a pickle")
    return text.encode("latin1")


def _allowed_globals() -> dict[str, Any]:
    allowed: dict[str, Any] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": _encode_latin1,
        "collections.OrderedDict": OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        allowed[f"{core}.multiarray._reconstruct"] = _ARRAY_FROM_NOTHING
        allowed[f"{core}.multiarray.scalar"] = _SCALAR
        allowed[f"{core}.numeric._frombuffer"] = _ARRAY_FROM_BUFFER
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        for plain in (set, frozenset, bytes, bytearray, complex):
            allowed[f"{builtins}.{plain.__name__}"] = plain
    return allowed


_ALLOWED = _allowed_globals()


class NumpyUnpickler(pickle.Unpickler):
    """Loads numpy arrays, dtypes, scalars and plain containers; nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of that name.

        Raises:
            UnpicklingError: the object is not allowed. The message names it.
        """
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(_wanted(f"{module}.{name}")) from None


def _wanted(name: str) -> str:
    return f"GLOBAL {name} was not an allowed global"


def load_pickle(path: str) -> Any:
    """What a plain pickle of numpy arrays holds."""
    with open(path, "rb") as file:
        return NumpyUnpickler(file, encoding="latin1").load()


def load_torch(path: str, mmap: bool) -> Any:
    """torch.load that also allows numpy's arrays and scalars."""
    allowed: list[Any] = [(v, n) for n, v in _ALLOWED.items() if n != "_codecs.encode"]
    allowed += {type(np.dtype(code)) for code in _NUMERIC}
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def load_pickle_with_code(path: str) -> Any:
    """What any plain pickle holds. Executes code in it: only for files from a trusted author."""
    with open(path, "rb") as file:
        return _TrustingUnpickler(file, encoding="latin1").load()


def load_torch_with_code(path: str) -> Any:
    """What any file of torch.save holds. Executes code in it, as `load_pickle_with_code`."""
    module: Any = SimpleNamespace(
        Unpickler=_TrustingUnpickler,
        load=lambda file, **options: _TrustingUnpickler(file, **options).load(),
        __name__=__name__,
    )
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


class _TrustingUnpickler(pickle.Unpickler):
    """Loads everything; objects of packages that are not installed become stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get(f"{module}.{name}")
        if allowed is not None:
            return allowed
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (_StandIn,), {"__module__": module})


class _StandIn:
    """For objects beside the weights: accepts any content and keeps none."""

    def __new__(cls, *args: Any, **options: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Lists are filled so."""

    def extend(self, items: Any) -> None:
        """Lists are filled so, too."""

    def add(self, item: Any) -> None:
        """Sets are filled so."""
