"""Sends this package's messages where Detectron2's go: all to log.txt, what matters to stdout."""

import logging
import os
import re
import sys
import warnings
from functools import partial

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .writing import cannot_write, discard

_LOGGERS = ("fvcore", "detectron2", "queryinst")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_RED, _GREEN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"
# Of what Detectron2 says at level INFO: progress, by how the lines of a logger begin.
_PROGRESS = {
    "detectron2.engine.train_loop": "Starting training",
    "detectron2.utils.events": "",
    "detectron2.evaluation.evaluator": "Inference done",
}
# How warnings of Detectron2 begin that mean nothing to a user, or that this package words itself.
_NEEDLESS = ("Category ids in annotations are not in", "SOLVER.STEPS contains values larger")


def log_to(output_dir: str) -> None:
    """Write messages to OUTPUT_DIR's log file and, on the main process, the shorter to stdout.

    The file has all of them, configuration and environment included, without colours. Stdout has
    this package's from level INFO on, progress, and warnings; in colours if it is a terminal.

    If the file cannot be written, the message that is the first to fail raises an OSError of one
    line. If stdout cannot, one line on stderr says so.
    """
    rank = comm.get_rank()
    # With the arguments that default_setup gives, so that it adds no handlers of its own.
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    setup_logger(output_dir, distributed_rank=rank, name="queryinst")
    # Torch says that there is no GPU, when default_setup looks at compilers, and that Detectron2
    # sets up DistributedDataParallel in an old way.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.handleError = partial(_fail, handler)  # type: ignore[method-assign]
                if handler.stream is not sys.stdout:
                    handler.setFormatter(_FileFormatter())
    _shorten_the_terminal(*_LOGGERS)


class _FileFormatter(logging.Formatter):
    """Detectron2's for files, without the colours that it gives to a configuration."""

    def __init__(self) -> None:
        super().__init__("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return _COLOR.sub("", super().format(record))


class _TerminalFormatter(logging.Formatter):
    """Time and message; the level of warnings and errors."""

    def __init__(self, *, in_color: bool):
        self._red, self._green, self._plain = (_RED, _GREEN, _PLAIN) if in_color else ("", "", "")
        super().__init__(
            f"{self._green}[%(asctime)s]:{self._plain} %(message)s", datefmt="%m/%d %H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        if record.levelno < logging.WARNING:
            return line
        return f"{self._red}{record.levelname}{self._plain} {line}"


def _is_for_terminal(record: logging.LogRecord) -> bool:
    message = record.getMessage().lstrip()
    if record.levelno >= logging.WARNING:
        return not message.startswith(_NEEDLESS)
    if record.name.startswith("queryinst"):
        return record.levelno >= logging.INFO
    return record.name in _PROGRESS and message.startswith(_PROGRESS[record.name])


def _fail(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)  # the message's fault
        return
    discard(handler.stream)
    path = getattr(handler.stream, "name", "the log")
    if handler.stream is not sys.stdout:
        raise cannot_write(path, error) from error
    print(f"train_net.py: warning: cannot write {path} ({error.strerror})", file=sys.stderr)


def log_at_least_to_terminal() -> None:
    """Set up logging if a notebook has not, as DefaultTrainer does for Detectron2."""
    names = [x for x in _LOGGERS[1:] if not logging.getLogger(x).isEnabledFor(logging.INFO)]
    for name in names:
        setup_logger(name=name)
    _shorten_the_terminal("queryinst", *names)


def _shorten_the_terminal(*names: str) -> None:
    for name in names:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                in_color = handler.stream.isatty() and "NO_COLOR" not in os.environ
                handler.setFormatter(_TerminalFormatter(in_color=in_color))
                handler.addFilter(_is_for_terminal)
