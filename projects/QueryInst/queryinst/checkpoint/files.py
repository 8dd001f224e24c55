"""Checkpoint files: read without executing what they hold, written whole or not at all.

``label`` is how a message names the file, for instance ``MODEL.WEIGHTS w.pth``.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch
from detectron2.utils.file_io import Detectron2Handler, PathManager

from .safetensors_files import compact, is_safetensors, read_safetensors, safetensors_bytes
from .unpickling import load_pickle, load_pickle_with_code, load_torch, load_torch_with_code

# First bytes of files: of torch.save since 1.6, of torch.save before (a pickled magic number), and
# of any pickle of protocol 2 or later.
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE_MAGIC = b"\x80"

_CHUNK = 1 << 20  # bytes
_OWN_SCHEME = "queryinst://"  # its handler, in model_zoo, raises errors that need no addition


def fetch(path: str, label: str) -> str:
    """The local file of a path or URL, which Detectron2's PathManager downloads if necessary.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, ConnectionError: one line that names
            the path.
    """
    try:
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


def _address(path: str) -> str:
    """Detectron2's shorthand in full, for a browser."""
    return path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)


def read_checkpoint(
    path: str, label: str, *, mmap: bool = False, allow_pickle: bool = False
) -> Any:
    """What a local checkpoint file holds, tensors on the CPU; nothing in the file is executed.

    Args:
        path: a local `.pth` of torch.save, a pickle of numpy arrays, or a safetensors file, told
            apart by how they begin. The last gives {"model": tensors, "meta": dict if it has one}.
        mmap: leave the tensors on the disk, if the format allows; to read only the rest.
        allow_pickle: load any Python object, and so execute what the file holds. Only for the
            conversion tool, and files from a trusted author.

    Raises:
        ValueError: the file is empty, truncated, not a checkpoint, or needs more than tensors,
            numpy arrays and plain containers. The message says what.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    if not head:
        raise ValueError(f"{label} is an empty file")
    is_zip, is_legacy = head.startswith(_ZIP_MAGIC), head == _LEGACY_MAGIC
    is_torch = is_zip or is_legacy
    if not is_torch and is_safetensors(path, head):
        return read_safetensors(path, label)
    if not is_torch and not head.startswith(_PICKLE_MAGIC) and not path.endswith(".pkl"):
        raise ValueError(f"{label} is not a checkpoint: it starts with {head!r}")
    try:
        if is_torch and allow_pickle:
            return load_torch_with_code(path)
        if is_torch:
            return load_torch(path, mmap and is_zip)
        return load_pickle_with_code(path) if allow_pickle else load_pickle(path)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        raise ValueError(f"{label} {_explain(error, damaged=is_torch)}") from error


def sha256_of(path: str) -> str:
    """The file's digest in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _explain(error: Exception, damaged: bool) -> str:
    text = str(error)
    name = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if name:
        return (
            f"is not loaded: it needs the Python object {name[1]}, but only tensors, numpy arrays"
            " and plain containers are allowed in a checkpoint; if you trust its author,"
            " tools/convert_checkpoint.py --allow-pickle makes a file without such objects"
        )
    if damaged or "truncated" in text or "ran out of input" in text.lower():
        return f"is truncated or damaged ({_first_line(error)}); copy or download it again"
    return f"is not a checkpoint ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    """The first line of an error, for another's message; torch puts advice before the cause."""
    _, _, cause = str(error).rpartition("WeightsUnpickler error:")
    lines = [line.strip() for line in cause.splitlines() if line.strip()]
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
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
        remove_quietly(temporary)
        raise OSError(f"cannot write {path} ({_first_line(error)}); {advice}") from error


def _sync_folder(folder: str) -> None:
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
