"""One run at a time in a folder."""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_held: set[int] = set()  # descriptors


class FolderInUseError(RuntimeError):
    """Another run writes to the folder; nothing was written to it."""


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold OUTPUT_DIR/.lock, which names this process. The system frees it if the process dies.

    Without a lock, after a warning, where the file system has none.

    Raises:
        FolderInUseError: another run holds it; with its process, host and start.
    """
    if "://" in folder:
        yield
        return
    descriptor = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        _acquire(descriptor, folder)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _acquire(descriptor: int, folder: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
        raise FolderInUseError(
            f"OUTPUT_DIR {folder!r} is in use by {holder}; wait for that run, or set another "
            "OUTPUT_DIR"
        ) from None
    except OSError as error:
        logger.warning(
            f"{folder} cannot be locked ({error.strerror}); do not start a second run in it"
        )
        return
    start = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {socket.gethostname()}, started {start}\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
    except OSError:  # a full disk; the lock itself holds
        pass


def _close_in_forked_child() -> None:
    """A loader's worker that outlives its parent must not hold the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_forked_child)
