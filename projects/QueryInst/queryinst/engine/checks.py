"""Checks of a run before anything is built."""

import os
import tempfile

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.resuming import has_checkpoint
from ..config_limits import check_limits
from ..solver import check_solver
from ..speedups import resolve
from .amp import check_inference_precision, check_training_precision
from .evaluation import evaluator_type


def check_run(cfg: CfgNode, *, training: bool, resume: bool = False) -> None:
    """Refuse a run that cannot work; `data.checks` checks its data sets.

    Raises:
        ValueError: a value lies outside its limits (`config_limits`), or batch size, schedule,
            precision, weights or kind of evaluation do not fit each other or the device. One line
            with the value and the key.
        ImportError: evaluation needs a package that is not installed.
    """
    check_limits(cfg)
    resolve(cfg.MODEL.QUERYINST.SPEEDUPS)
    if training:
        _check_full(cfg)
        check_solver(cfg)
        _check_batch(cfg)
        check_training_precision(cfg)
    else:
        _check_weights(cfg, resume)
    check_inference_precision(cfg)
    for dataset_name in cfg.DATASETS.TEST:
        evaluator_type(cfg, dataset_name)


def check_output_dir(path: str) -> None:
    """Create the folder, and write to it.

    Raises:
        ValueError: the path is empty.
        PermissionError: the folder cannot be created or written to.
    """
    if not path:
        raise ValueError("OUTPUT_DIR is empty; set it to a folder that can be written to")
    if "://" in path:
        return  # PathManager's handlers check remote folders
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # the latter for a path with "\0"
        reason = getattr(error, "strerror", None) or error
        raise PermissionError(
            f"cannot write to {path[:200]!r} ({reason}); set OUTPUT_DIR"
        ) from error


def _check_full(cfg: CfgNode) -> None:
    if cfg.MODEL.QUERYINST.INFERENCE_ONLY and cfg.MODEL.MASK_ON:
        raise ValueError(
            "MODEL.QUERYINST.INFERENCE_ONLY is True: the model has only the last mask head, and"
            " training needs those of all stages; set MODEL.QUERYINST.INFERENCE_ONLY False and"
            " start from a full checkpoint"
        )


def _check_batch(cfg: CfgNode) -> None:
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and batch % reference:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {reference} reference processes; "
            "set SOLVER.IMS_PER_BATCH or SOLVER.REFERENCE_WORLD_SIZE"
        )
    parts = cfg.SOLVER.ACCUMULATE_STEPS
    images = batch // (reference or processes)
    if parts > max(images, 1):
        raise ValueError(
            f"{parts} parts of the {images} images of a process must be at most as many as there "
            "are images; set SOLVER.ACCUMULATE_STEPS"
        )
    if not reference and batch % processes:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {processes} processes; "
            "set SOLVER.IMS_PER_BATCH or --num-gpus"
        )


def _check_weights(cfg: CfgNode, resume: bool) -> None:
    if not cfg.MODEL.WEIGHTS and not (resume and has_checkpoint(cfg.OUTPUT_DIR)):
        where = f", and there is no last_checkpoint in {cfg.OUTPUT_DIR}" if resume else ""
        raise ValueError(f"--eval-only needs weights; set MODEL.WEIGHTS to a checkpoint{where}")
