"""Checkpoint files: read without executing what they hold, written whole or not at all.

``label`` is how a message names the file, for instance ``MODEL.WEIGHTS w.pth``.
"""

import hashlib
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import torch
from detectron2.utils.file_io import Detectron2Handler, PathManager

from .file_kinds import HEAD_SIZE, kind_of_file
from .limits import MemoryLimit, TooLargeError
from .safetensors_files import compact, is_safetensors, read_safetensors, safetensors_bytes
from .torch_files import LEGACY_MAGIC, load_legacy, load_zip, verify_zip
from .trusted_pickles import load_pickle_with_code, load_torch_with_code
from .unpickling import RefusedError, load_pickle

# First bytes of files of torch.save since 1.6, and of any pickle of protocol 2 or later.
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte
_OWN_SCHEME = "queryinst://"  # its handler, in model_zoo, raises errors that need no addition


def fetch(path: str, label: str) -> str:
    """The local file of a path or URL, which Detectron2's PathManager downloads if necessary.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, ConnectionError: one line that names
            the path.
    """
    try:
        with _ending_silence():
            local = PathManager.get_local_path(path)
    except OSError as error:
        if path.startswith(_OWN_SCHEME):
            raise
        raise ConnectionError(
            f"{label} cannot be downloaded ({_first_line(error)}); without a network, get"
            f" {_address(path)} by other means and name the local file"
        ) from error
    except Exception as error:  # each handler of PathManager raises its own for an unknown name
        if path.startswith(_OWN_SCHEME):
            raise
        raise FileNotFoundError(f"{label} names no file: {_first_line(error)}") from error
    if os.path.isdir(local):
        raise IsADirectoryError(f"{label} is a folder; name the checkpoint file in it")
    if not os.path.isfile(local):
        raise FileNotFoundError(f"{label} does not exist")
    if not os.access(local, os.R_OK):
        raise PermissionError(f"{label} cannot be read by this user; check the file's permissions")
    return local


@contextmanager
def _ending_silence() -> Iterator[None]:
    """Give the connections of PathManager's handlers the timeout that they lack."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _address(path: str) -> str:
    """Detectron2's shorthand in full, for a browser."""
    return path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)


def read_checkpoint(
    path: str,
    label: str,
    *,
    with_tensors: bool = True,
    allow_pickle: bool = False,
    max_bytes: int | None = None,
) -> Any:
    """What a local checkpoint file holds, tensors on the CPU; nothing in the file is executed.

    What a file of torch.save, or a safetensors file of this project, holds is compared with the
    checksums in it.

    Args:
        path: a local `.pth` of torch.save, a pickle of numpy arrays, or a safetensors file, told
            apart by how they begin. The last gives {"model": tensors, "meta": dict if it has one}.
        with_tensors: False reads only the rest; what stands for the tensors has no values.
        allow_pickle: load any Python object, and so execute what the file holds. Only for the
            conversion tool, and files from a trusted author.
        max_bytes: how much memory the content may take; `MemoryLimit.of_file` has the default.

    Raises:
        ValueError: the file is empty, truncated, damaged, not a checkpoint, takes more memory than
            the limit, or needs more than tensors, numpy arrays and plain containers. The message
            says what.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        beginning = file.read(HEAD_SIZE)
    head = beginning[: len(LEGACY_MAGIC)]
    if not head:
        raise ValueError(f"{label} is an empty file")
    is_torch = head.startswith(_ZIP_MAGIC) or head == LEGACY_MAGIC
    limit = MemoryLimit.of_file(path, max_bytes)
    if not is_torch and is_safetensors(path, head):
        return read_safetensors(path, label, limit, with_tensors=with_tensors)
    if not is_torch and not head.startswith(_PICKLE_MAGIC) and not path.endswith(".pkl"):
        kind = kind_of_file(path, beginning)
        said = f", and is {kind}" if kind else ""
        raise ValueError(f"{label} is not a checkpoint: it starts with {head!r}{said}")
    try:
        if allow_pickle:
            return _load_with_code(path, head, limit)
        return _load(path, head, limit, with_tensors)
    except TooLargeError as error:
        raise ValueError(f"{label} {error}") from error
    except MemoryError as error:
        raise MemoryError(f"{label} does not fit into this machine's memory") from error
    except Exception as error:  # damaged bytes raise nearly anything
        if "can't allocate memory" in str(error):  # torch's own
            raise MemoryError(f"{label} does not fit into this machine's memory") from error
        raise ValueError(f"{label} {_explain(error, damaged=is_torch)}") from error


def _load(path: str, head: bytes, limit: MemoryLimit, with_tensors: bool) -> Any:
    if head.startswith(_ZIP_MAGIC):
        return load_zip(path, limit, with_tensors)
    if head == LEGACY_MAGIC:
        return load_legacy(path, limit, with_tensors)
    return load_pickle(path, limit)


def _load_with_code(path: str, head: bytes, limit: MemoryLimit) -> Any:
    if head.startswith(_ZIP_MAGIC):
        verify_zip(path, limit)
    elif head != LEGACY_MAGIC:
        return load_pickle_with_code(path)
    return load_torch_with_code(path)


def sha256_of(path: str) -> str:
    """The file's digest in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _explain(error: Exception, damaged: bool) -> str:
    text = str(error)
    name = re.search(r"GLOBAL (\S+) was not an allowed", text)
    if name:
        return (
            f"is not loaded: it needs the Python object {name[1][:160]}, but only tensors, numpy"
            " arrays and plain containers are allowed in a checkpoint; if you trust its author,"
            " tools/convert_checkpoint.py --allow-pickle makes a file without such objects"
        )
    if isinstance(error, RefusedError):
        return f"is not a checkpoint ({_first_line(error)})"
    ends_early = isinstance(error, (EOFError, struct.error)) or "exhausted" in text
    if damaged or ends_early or "truncated" in text:
        return f"is truncated or damaged ({_first_line(error)}); copy or download it again"
    return f"is not a checkpoint ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    """The first line of an error, for another's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def write_checkpoint(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all, in the format that the suffix names.

    Args:
        path: `.pth`, for torch.save, or `.safetensors`.
        checkpoint: {"model": state dict}, or "state_dict" for MMDetection, and all else to
            keep. A safetensors file can keep only "meta".

    Raises:
        ValueError: the suffix is another one, or the format cannot hold the content.
        OSError: one line; what was there before is unharmed.
    """
    check_suffix(path)
    key = "model" if "model" in checkpoint else "state_dict"
    tensors = compact(checkpoint[key])
    place = "it must be in a folder that can be written to, with room left"
    if path.endswith(".safetensors"):
        others = [name for name in checkpoint if name not in (key, "meta")]
        if others:
            raise ValueError(
                f"{path} can hold weights and meta, not {', '.join(others)}; write a .pth file"
            )
        content = safetensors_bytes(tensors, checkpoint.get("meta"))
        write_atomically(path, lambda file: file.write(content), place)
        return
    data = {**checkpoint, key: tensors}
    write_atomically(path, lambda file: torch.save(data, file), place)


def check_suffix(path: str) -> None:
    """Raise a ValueError unless `write_checkpoint` knows the format."""
    if not path.endswith((".pth", ".safetensors")):
        raise ValueError(f"{path} must end in .pth or .safetensors, which names the file's format")


def write_atomically(
    path: str,
    write: Callable[[IO[bytes]], Any],
    advice: str = "OUTPUT_DIR must be a folder that can be written to, with room left",
) -> None:
    """Let `write` fill a file, which gets the name `path` only when all of it is on the disk.

    Creates missing folders. If `path` is a URL, its handler of PathManager writes.

    Raises:
        OSError: the file cannot be written; an existing one is unchanged. One line.
    """
    if "://" in path:
        with PathManager.open(path, "wb") as file:
            write(file)
        return
    folder = os.path.dirname(path) or "."
    temporary = f"{path}.tmp"  # a killed run leaves at most this file; the next save reuses it
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
        remove_quietly(temporary)
        raise OSError(f"cannot write {path} ({_first_line(error)}); {advice}") from error


def sync_folder(folder: str) -> None:
    """Put the rename itself on the disk, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse; the file's bytes are safe
        pass
    finally:
        os.close(descriptor)


def remove_quietly(path: str) -> None:
    """Remove a file if it exists and can be removed."""
    try:
        os.remove(path)
    except OSError:
        pass
