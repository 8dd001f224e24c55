"""Processes that live until they are killed; forked, so that each need not import torch anew."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_POLL = 0.0002  # seconds between two looks
_PATIENCE = 300  # seconds that a life may take


class Life(NamedTuple):
    """How a group of processes went."""

    seconds: float
    killed: bool
    in_write: bool  # the kill left a file that was being written
    status: int  # the largest of those that were not killed


def fork(function: Callable[[], int], log: Path) -> int:
    """Start a process that ends with the function's status; its output goes to the file `log`.

    It leads a process group, to which its workers belong. This process must have no threads that
    hold locks.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 99
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def unfinished(output: Path) -> set[tuple[Path, int]]:
    """Files that are being written in a folder, with the time of their last change."""
    files = set()
    for path in output.glob("*.tmp*"):
        try:
            files.add((path, path.stat().st_mtime_ns))
        except FileNotFoundError:  # it has its final name by now
            pass
    return files


def live(pids: list[int], is_time: Callable[[float], bool], output: Path) -> Life:
    """Wait for processes of `fork`, or kill all of them and their workers when `is_time` says so.

    Args:
        is_time: called with the seconds since the start.
        output: the folder in which they write.
    """
    start = time.monotonic()
    before, alive, statuses, killed = unfinished(output), set(pids), [], False
    while alive:
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.remove(pid)
                statuses.append(os.waitstatus_to_exitcode(status))
        seconds = time.monotonic() - start
        if alive and not killed and (is_time(seconds) or seconds > _PATIENCE):
            for pid in alive:
                _kill_group(pid)
            killed = True
        time.sleep(_POLL)
    in_write = killed and bool(unfinished(output) - before)
    ends = [status for status in statuses if status != -signal.SIGKILL]
    return Life(time.monotonic() - start, killed, in_write, max(ends, default=0))


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it does not lead its group yet
        os.kill(pid, signal.SIGKILL)
