"""Checkpoint files: read without executing what they hold, written whole or not at all.

``shown`` in these functions is how a message names the file, for instance ``MODEL.WEIGHTS w.pth``.
"""

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from detectron2.utils.file_io import Detectron2Handler, PathManager

# How files begin: those of torch.save since 1.6, those before (a pickled magic number), and any
# pickle of protocol 2 or later.
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE_MAGIC = b"\x80"

# What arrays, dtypes and scalars pickle to. Asked of numpy itself, as its modules have moved.
_ARRAY_FROM_NOTHING: Any = np.zeros(1).__reduce__()[0]
_ARRAY_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMERIC = "? b B h H i I l L q Q e f d g F D G".split()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What bytes are in pickles of protocol 2; no other codec is looked up."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r} in a pickle")
    return text.encode("latin1")


def _admitted_globals() -> dict[str, Any]:
    admitted: dict[str, Any] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": _encode_latin1,
        "collections.OrderedDict": OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        admitted[f"{core}.multiarray._reconstruct"] = _ARRAY_FROM_NOTHING
        admitted[f"{core}.multiarray.scalar"] = _SCALAR
        admitted[f"{core}.numeric._frombuffer"] = _ARRAY_FROM_BUFFER
    for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
        for plain in (set, frozenset, bytes, bytearray, complex):
            admitted[f"{builtins}.{plain.__name__}"] = plain
    return admitted


_ADMITTED = _admitted_globals()


class NumpyUnpickler(pickle.Unpickler):
    """Admits numpy arrays, dtypes, scalars and plain containers; nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            UnpicklingError: the pickle wants anything else; the message names it.
        """
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(_wanted(f"{module}.{name}")) from None


def _wanted(name: str) -> str:
    return f"GLOBAL {name} was not an allowed global"


def _torch_load(path: str, mmap: bool) -> Any:
    """torch.load that admits numpy's arrays and scalars beside tensors and plain containers."""
    admitted: list[Any] = [(v, n) for n, v in _ADMITTED.items() if n != "_codecs.encode"]
    admitted += {type(np.dtype(code)) for code in _NUMERIC}
    with torch.serialization.safe_globals(admitted):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def fetch(path: str, shown: str) -> str:
    """The local file of a path or URL, downloaded by Detectron2's PathManager if need be.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, ConnectionError: one line that names
            the path.
    """
    try:
        local = PathManager.get_local_path(path)
    except OSError as error:
        raise ConnectionError(
            f"{shown} could not be downloaded ({_first_line(error)}); with no network, get"
            f" {_address(path)} by other means and name the local file"
        ) from error
    except Exception as error:  # each handler of PathManager has its own for a name it lacks
        raise FileNotFoundError(f"{shown} names no file: {_first_line(error)}") from error
    if os.path.isdir(local):
        raise IsADirectoryError(f"{shown} is a folder; name the checkpoint file in it")
    if not os.path.isfile(local):
        raise FileNotFoundError(f"{shown} does not exist")
    if not os.access(local, os.R_OK):
        raise PermissionError(f"{shown} can't be read by this user; check the file's permissions")
    return local


def _address(path: str) -> str:
    """Detectron2's shorthand spelled out, so that a browser can fetch it."""
    return path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)


def read_checkpoint(path: str, shown: str, *, mmap: bool = False) -> Any:
    """What a local checkpoint file holds, tensors on the CPU; nothing in the file is executed.

    Args:
        path: a local `.pth` of torch.save, or a pickle of numpy arrays.
        mmap: leave the tensors on the disk, if the format allows; for a look at the rest.

    Raises:
        ValueError: empty, truncated, not a checkpoint, or it needs more than tensors, numpy arrays
            and plain containers (the message says what).
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    if not head:
        raise ValueError(f"{shown} is an empty file")
    is_zip, is_legacy = head.startswith(_ZIP_MAGIC), head == _LEGACY_MAGIC
    is_pickle = not is_zip and not is_legacy
    if is_pickle and not head.startswith(_PICKLE_MAGIC) and not path.endswith(".pkl"):
        raise ValueError(f"{shown} is not a checkpoint: it starts with {head!r}")
    try:
        if is_pickle:
            with open(path, "rb") as file:
                return NumpyUnpickler(file, encoding="latin1").load()
        return _torch_load(path, mmap and is_zip)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        raise ValueError(f"{shown} {_explain(error, damaged=is_zip or is_legacy)}") from error


def _explain(error: Exception, damaged: bool) -> str:
    text = str(error)
    name = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if name:
        return (
            f"is not loaded: it wants the Python object {name[1]}, and of a checkpoint only"
            " tensors, numpy arrays and plain containers are admitted; save it again without"
        )
    if damaged or "truncated" in text or "ran out of input" in text.lower():
        return f"is truncated or damaged ({_first_line(error)}); copy or download it again"
    return f"is not a checkpoint ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    """What of an error fits into another's line; torch has its advice in front of the cause."""
    _, _, cause = str(error).rpartition("WeightsUnpickler error:")
    lines = [line.strip() for line in cause.splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def write_atomically(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a file that gets the name `path` only when all of it is on the disk.

    Missing folders are made. A path that is a URL is left to its handler of PathManager.

    Raises:
        OSError: one line; the file that was there before, if any, is as it was.
    """
    if "://" in path:
        with PathManager.open(path, "wb") as file:
            write(file)
        return
    folder = os.path.dirname(path) or "."
    temporary = f"{path}.tmp"  # a killed run leaves at most this; the next save takes it over
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
        _remove_quietly(temporary)
        raise OSError(
            f"cannot write {path} ({_first_line(error)}); OUTPUT_DIR must be a folder that can be"
            " written to, with room left"
        ) from error


def _sync_folder(folder: str) -> None:
    """Put the rename itself on the disk, where the file system knows of such a thing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse it; the file's own bytes are safe
        pass
    finally:
        os.close(descriptor)


def _remove_quietly(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
