"""Sends this package's messages where Detectron2's go."""

import logging
import sys
from functools import partial

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .writing import cannot_write, discard


def log_to(output_dir: str) -> None:
    """Write messages to OUTPUT_DIR's log file and, on the main process, stdout.

    If the file cannot be written, the message that is the first to fail raises an OSError of one
    line. If stdout cannot, one line on stderr says so.
    """
    rank = comm.get_rank()
    # With the arguments that default_setup gives, so that it adds no handlers of its own.
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    setup_logger(output_dir, distributed_rank=rank, name="queryinst")
    for name in ("fvcore", "detectron2", "queryinst"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.handleError = partial(_fail, handler)  # type: ignore[method-assign]
    _keep_details_off_the_terminal()


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
    for name in ("detectron2", "queryinst"):
        if not logging.getLogger(name).isEnabledFor(logging.INFO):
            setup_logger(name=name)
    _keep_details_off_the_terminal()


def _keep_details_off_the_terminal() -> None:
    for handler in logging.getLogger("queryinst").handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.INFO)
