"""What can be seen to be wrong before anything is built."""

import os
import tempfile

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm


def check_run(cfg: CfgNode, *, training: bool, resume: bool = False) -> None:
    """Refuse a run that cannot work.

    Raises:
        ValueError: batch size, schedule, precision or weights; names the value and the key.
        PermissionError: OUTPUT_DIR cannot be written to.
    """
    check_output_dir(cfg.OUTPUT_DIR)
    if training:
        _check_solver(cfg)
        if not cfg.DATASETS.TRAIN:
            raise ValueError("no data set to train on; set DATASETS.TRAIN")
        return
    if not cfg.DATASETS.TEST:
        raise ValueError("no data set to evaluate on; set DATASETS.TEST")
    resumable = resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    if not cfg.MODEL.WEIGHTS and not resumable:
        raise ValueError("--eval-only needs weights; set MODEL.WEIGHTS to a checkpoint")


def check_output_dir(path: str) -> None:
    """Make the folder and write to it.

    Raises:
        PermissionError: it cannot be made or written to.
    """
    if not path:
        raise ValueError("OUTPUT_DIR is empty; set it to a folder that can be written to")
    if "://" in path:
        return  # PathManager's handlers answer for remote folders
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise PermissionError(f"cannot write to {path!r} ({reason}); set OUTPUT_DIR") from None


def _check_solver(cfg: CfgNode) -> None:
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if batch < 1:
        raise ValueError(f"a batch of {batch} images must be at least 1; set SOLVER.IMS_PER_BATCH")
    if reference < 0:
        raise ValueError(f"{reference} must be >= 0; set SOLVER.REFERENCE_WORLD_SIZE")
    if reference and batch % reference:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {reference} reference processes; "
            "set SOLVER.IMS_PER_BATCH or SOLVER.REFERENCE_WORLD_SIZE"
        )
    if not reference and batch % processes:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {processes} processes; "
            "set SOLVER.IMS_PER_BATCH or --num-gpus"
        )
    if cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(
            f"{cfg.SOLVER.MAX_ITER} iterations must be at least 1; set SOLVER.MAX_ITER"
        )
    if cfg.SOLVER.CHECKPOINT_PERIOD < 1:
        raise ValueError(
            f"{cfg.SOLVER.CHECKPOINT_PERIOD} iterations must be at least 1; set SOLVER.CHECKPOINT_PERIOD"
        )
    if cfg.SOLVER.CHECKPOINT_KEEP < 0:
        raise ValueError(
            f"{cfg.SOLVER.CHECKPOINT_KEEP} checkpoints must be >= 0; set SOLVER.CHECKPOINT_KEEP"
        )
    if cfg.SOLVER.AMP.ENABLED and not (
        cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    ):
        raise ValueError("mixed-precision training needs a GPU; set SOLVER.AMP.ENABLED False")
