"""Files that a run appends to. If one cannot be written, one line says which."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from typing import IO, Any

from detectron2.utils.events import EventWriter

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TORCHS = "PytorchStreamWriter failed"  # its zip writer turns an OSError into a RuntimeError


def cannot_write(path: str, error: BaseException) -> OSError:
    """The error to raise for one that does not name its file."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
    return OSError(
        f"cannot write {path} ({reason}); OUTPUT_DIR must be a folder that can be written to, with "
        "room left; the last checkpoint is as it was"
    )


@contextmanager
def naming(pattern: str) -> Iterator[None]:
    """Add the file to errors of a full disk that lack it: the newest that `pattern` matches.

    Raises:
        OSError: as `cannot_write`.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_full = getattr(error, "errno", None) in _NO_ROOM
        if getattr(error, "filename", None) or not (is_full or _TORCHS in str(error)):
            raise
        paths = [path for path in glob(pattern, recursive=True) if os.path.isfile(path)]
        raise cannot_write(max(paths, key=os.path.getmtime, default=pattern), error) from error


def discard(file: IO[Any]) -> None:
    """Send what a failed file still has to write to nowhere, lest its end fails again."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, file.fileno())
        os.close(descriptor)
    except (OSError, ValueError, AttributeError):  # no file of the system
        pass


class FileWriter(EventWriter):
    """A writer of Detectron2's that fails once, and then is silent."""

    def __init__(self, writer: EventWriter, pattern: str):
        """
        Args:
            pattern: of the file that it writes, as `naming` takes it.
        """
        self._writer = writer
        self._pattern = pattern
        self._has_failed = False

    def write(self):
        """As the writer's own.

        Raises:
            OSError: the file cannot be written; one line.
        """
        self._call(self._writer.write)

    def close(self):
        """As `write`."""
        self._call(self._writer.close)

    def _call(self, function):
        if self._has_failed:
            return
        try:
            function()
        except OSError as error:
            self._has_failed = True
            if file := getattr(self._writer, "_file_handle", None):
                discard(file)
                file.close()
            paths = glob(self._pattern)
            raise cannot_write(max(paths, default=self._pattern), error) from error


@contextmanager
def quiet_tensorboard_thread() -> Iterator[None]:
    """Print no traceback of the thread that writes for TensorBoard.

    The error is raised by the next `FileWriter.write`.
    """
    before = threading.excepthook

    def hook(args: Any) -> None:
        if (
            not isinstance(args.exc_value, OSError)
            or "AsyncWriter" not in type(args.thread).__name__
        ):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def end_torn_line(path: str) -> None:
    """Let a file that a killed run left within a line go on with a new one."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
