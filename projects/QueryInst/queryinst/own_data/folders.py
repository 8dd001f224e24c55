"""Folders that are written whole, or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# At the top of what this package writes.
_OWN = {"annotations", "data.yaml", "images", "labels", "train", "val", "test"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(
    target: str, sources: Iterable[str], *, overwrite: bool, own: Iterable[str] = ()
) -> None:
    """Raise an error if a folder must not be written.

    Args:
        sources: files and folders that are read, which must not be replaced.
        overwrite: a folder that this package wrote may be replaced.
        own: what else such a folder may have.

    Raises:
        FileExistsError: it is there, and not empty.
        ValueError: it holds a source.
    """
    if not os.path.lexists(target) or (os.path.isdir(target) and not os.listdir(target)):
        return
    if not os.path.isdir(target):
        raise FileExistsError(f"{target} is a file; name a folder to write")
    if not overwrite:
        raise FileExistsError(f"{target} is there already; add --overwrite, or name another folder")
    top = os.path.realpath(target) + os.sep
    for source in sources:
        if f"{os.path.realpath(source)}{os.sep}".startswith(top):
            raise ValueError(f"{target} would replace {source}, which is read; name another folder")
    if strange := sorted(set(os.listdir(target)) - _OWN - set(own)):
        raise FileExistsError(
            f"{target} has {strange[0]}, which this command does not write; remove it, or name"
            " another folder"
        )


@contextmanager
def new_folder(target: str) -> Iterator[Path]:
    """A folder beside the target, which takes its place, and that of what is there, at the end.

    A link to a folder stays, and the folder is replaced.

    Raises:
        OSError: it cannot be written. One line.
    """
    path = Path(os.path.realpath(target))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(
            tempfile.mkdtemp(prefix=f".{path.name[:100]}-", suffix=".part", dir=path.parent)
        )
    except OSError as error:
        raise OSError(f"cannot make the folder {target} ({error.strerror})") from error
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        _replace(path, part)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(f"cannot write {target} ({error.strerror}); nothing of it is left") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(path: Path, part: Path) -> None:
    old = part.with_suffix(".old")
    try:
        if path.exists():
            path.rename(old)
        part.rename(path)
    except BaseException:  # an interrupt between the two as well
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
