"""Errors of a run: one line on the terminal, the traceback in the log file."""

import builtins
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from .run_lock import FolderInUseError
from .stopping import stop

# Raised on purpose, with messages that need no class name before them.
_EXPLAINED = (ValueError, KeyError, OSError, ImportError, RuntimeError, FloatingPointError)
_EXPLAINED_NAMES = {
    "RunFailedError",
    "FolderInUseError",
    "ProcessExitedException",
    "LaterFormatError",
    "SizeMismatchError",
    "ImageFileError",
    "ImageSizeError",
} | {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, _EXPLAINED)
}
# The line of a traceback that begins the message.
_MESSAGE = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?:: |$)", re.MULTILINE)
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)
_LOOP_LOGGER = "detectron2.engine.train_loop"


class RunFailedError(RuntimeError):
    """A run failed; the message is the one line for the terminal."""


def describe_error(error: BaseException) -> str:
    """One line for an error of any process."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}, the log says why"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    from_loader = "Original Traceback (most recent call last)" in text
    if from_loader or isinstance(error, ProcessRaisedException):
        lines = list(_MESSAGE.finditer(text))
        if lines:
            return _name_if_needed(lines[-1][1], text[lines[-1].end() :])
    return _name_if_needed(type(error).__name__, text)


def is_explained(error: BaseException) -> bool:
    """Whether the error's message alone tells the user what is wrong."""
    return not describe_error(error).startswith(type(error).__name__)


def _name_if_needed(class_name: str, text: str) -> str:
    line = " ".join(text.split())
    is_bare_key = class_name == "KeyError" and " " not in line  # a dict's, not a sentence
    if line and class_name in _EXPLAINED_NAMES and not is_bare_key:
        return line
    return f"{class_name}: {line}" if line else class_name


@contextmanager
def failing_in_one_line(output_dir: str) -> Iterator[None]:
    """Turn any error inside into a RunFailedError of one line.

    The traceback goes to this process's log file in `output_dir`. If there is no such file, the
    traceback of an unexplained error goes to stderr.
    """
    loop_logger = logging.getLogger(_LOOP_LOGGER)
    loop_logger.addFilter(_has_no_traceback)  # else the terminal shows it too
    try:
        yield
    except (Exception, SystemExit) as error:
        line = describe_error(error)
        # In a folder in use the log file is another run's.
        in_use = isinstance(error, FolderInUseError)
        place = None if in_use else _record_traceback(output_dir)
        if not is_explained(error):
            line = f"{line}; traceback in {place}" if place else line
            if not place:
                traceback.print_exc()
        _let_others_speak_first(error)
        raise RunFailedError(line) from None
    finally:
        loop_logger.removeFilter(_has_no_traceback)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


def _record_traceback(output_dir: str) -> str | None:
    """Append the current exception to the log file; its path, or None without a file."""
    rank = comm.get_rank()
    path = os.path.join(output_dir, "log.txt" if rank == 0 else f"log.txt.rank{rank}")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "a") as file:
            traceback.print_exc(file=file)
    except OSError:
        return None
    return path


def _let_others_speak_first(error: BaseException) -> None:
    """Wait if another process is at fault: the terminal shows the first one to end.

    The launcher ends this process as soon as the other has ended.
    """
    if comm.get_world_size() > 1 and _LOST_PEER.search(str(error)) and not stop.number:
        time.sleep(20)


def print_error(line: str, program: str = "train_net.py") -> None:
    """Print the last line of a failed run."""
    print(f"{program}: error: {line}", file=sys.stderr, flush=True)
