"""Checks of a run before anything is built."""

import os
import tempfile

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.resuming import has_checkpoint
from ..config import activation_checkpointing
from ..solver import check_solver
from ..speedups import resolve
from .amp import check_inference_precision, check_training_precision
from .evaluation import evaluator_type


def check_run(cfg: CfgNode, *, training: bool, resume: bool = False) -> None:
    """Refuse a run that cannot work; `data.checks` checks its data sets.

    Raises:
        ValueError: batch size, schedule, precision, activation checkpointing, weights or kind of
            evaluation are invalid. One line with the value and the key.
        ImportError: evaluation needs a package that is not installed.
    """
    activation_checkpointing(cfg)
    resolve(cfg.MODEL.QUERYINST.SPEEDUPS)
    if training:
        _check_full(cfg)
        check_solver(cfg)
        _check_batch(cfg)
        _check_checkpoints(cfg)
        check_training_precision(cfg)
    else:
        _check_weights(cfg, resume)
    check_inference_precision(cfg)
    if cfg.TEST.AUG.ENABLED:
        raise ValueError(
            "there is no test-time augmentation for QueryInst; set TEST.AUG.ENABLED False"
        )
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ValueError(f"{cfg.DATALOADER.NUM_WORKERS} must be >= 0; set DATALOADER.NUM_WORKERS")
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
    except OSError as error:
        reason = error.strerror or error
        raise PermissionError(f"cannot write to {path!r} ({reason}); set OUTPUT_DIR") from error


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
    if batch < 1:
        raise ValueError(f"a batch of {batch} images must be at least 1; set SOLVER.IMS_PER_BATCH")
    if reference < 0:
        raise ValueError(f"{reference} must be >= 0; set SOLVER.REFERENCE_WORLD_SIZE")
    if reference and batch % reference:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {reference} reference processes; "
            "set SOLVER.IMS_PER_BATCH or SOLVER.REFERENCE_WORLD_SIZE"
        )
    parts = cfg.SOLVER.ACCUMULATE_STEPS
    images = batch // (reference or processes)
    if not 1 <= parts <= max(images, 1):
        raise ValueError(
            f"{parts} parts of the {images} images of a process must be at least 1 and at most as "
            "many as there are images; set SOLVER.ACCUMULATE_STEPS"
        )
    if not reference and batch % processes:
        raise ValueError(
            f"a batch of {batch} images cannot be shared by {processes} processes; "
            "set SOLVER.IMS_PER_BATCH or --num-gpus"
        )


def _check_checkpoints(cfg: CfgNode) -> None:
    for key, limit in (("CHECKPOINT_PERIOD", 1), ("CHECKPOINT_KEEP", 0)):
        if cfg.SOLVER[key] < limit:
            raise ValueError(f"{cfg.SOLVER[key]} must be >= {limit}; set SOLVER.{key}")


def _check_weights(cfg: CfgNode, resume: bool) -> None:
    if not cfg.MODEL.WEIGHTS and not (resume and has_checkpoint(cfg.OUTPUT_DIR)):
        where = f", and there is no last_checkpoint in {cfg.OUTPUT_DIR}" if resume else ""
        raise ValueError(f"--eval-only needs weights; set MODEL.WEIGHTS to a checkpoint{where}")
