"""Pickles of a trusted author, for the conversion tool: loading one executes what it holds."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

# Where numpy's arrays and scalars are in pickles of its versions 1 and 2 -> where they are here.
_MOVED = {
    f"{core}.{name}": value
    for core in ("numpy.core", "numpy._core")
    for name, value in (
        ("multiarray._reconstruct", np.zeros(1).__reduce__()[0]),
        ("multiarray.scalar", np.float64(0).__reduce__()[0]),
        ("numeric._frombuffer", np.zeros(1).__reduce_ex__(5)[0]),
    )
}


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
        if (moved := _MOVED.get(f"{module}.{name}")) is not None:
            return moved
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
