"""Folders that are written whole, or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".queryinst-data"  # a file at the top of what is written; others' folders have none
_MARK_TEXT = "Written by `queryinst data`, whose --overwrite replaces these and nothing else:\n"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(target: str, sources: Iterable[str], *, overwrite: bool) -> None:
    """Raise an error if a folder must not be written.

    Args:
        sources: files and folders that are read, which must not be replaced.
        overwrite: a folder that `new_folder` wrote may be replaced, while nothing was added to it.

    Raises:
        FileExistsError: it is there, and not empty; or not written by `new_folder`.
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
    mark = Path(target, MARK)
    if not mark.is_file():
        raise FileExistsError(
            f"{target} was not written by queryinst data (it has no file {MARK}); remove it, or"
            " name another folder"
        )
    own = mark.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    if strange := sorted(set(os.listdir(target)) - {MARK, *own}):
        raise FileExistsError(
            f"{target} has {strange[0]}, which queryinst data did not write; remove it, or name"
            " another folder"
        )


@contextmanager
def new_folder(target: str) -> Iterator[Path]:
    """A folder beside the target, which takes its place, and that of what is there, at the end.

    A link to a folder stays, and the folder is replaced. A hidden file marks it as written here.

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
        names = "".join(f"{name}\n" for name in sorted(os.listdir(part)))
        (part / MARK).write_text(_MARK_TEXT + names, encoding="utf-8", errors="replace")
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
