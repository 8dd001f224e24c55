"""Sends this package's messages where Detectron2's go."""

import logging
import sys

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def log_to(output_dir: str) -> None:
    """Write this package's messages to OUTPUT_DIR's log file and, on the main process, stdout."""
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="queryinst")
    _keep_details_off_the_terminal()


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
