"""Checks of a run before anything is built."""

import difflib
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.resuming import has_checkpoint
from ..config_limits import check_limits
from ..solver import check_solver
from ..speedups import resolve
from .amp import check_inference_precision, check_training_precision
from .evaluation import best_metric, evaluator_type, known_metrics
from .trackers import check_writers

logger = logging.getLogger(__name__)

_TASKS = {"mask": "segm", "masks": "segm", "box": "bbox", "boxes": "bbox"}  # in a table's words


def check_run(cfg: CfgNode, *, training: bool, resume: bool = False) -> None:
    """Refuse a run that cannot work; `data.checks` checks its data sets.

    Raises:
        ValueError: a value lies outside its limits (`config_limits`), or batch size, schedule,
            precision, weights or kind of evaluation do not fit each other or the device. One line
            with the value and the key.
        ImportError: evaluation or a writer needs a package that is not installed.
    """
    check_limits(cfg)
    resolve(cfg.MODEL.QUERYINST.SPEEDUPS)
    if training:
        _check_full(cfg)
        check_solver(cfg)
        _check_batch(cfg)
        check_training_precision(cfg)
        _check_evaluation(cfg)
        check_writers(cfg.WRITERS)
        _warn_of_schedule(cfg)
    else:
        _check_weights(cfg, resume)
    check_inference_precision(cfg)
    for dataset_name in cfg.DATASETS.TEST:
        evaluator_type(cfg, dataset_name)


def check_dataset_args(cfg: CfgNode, triples: Iterable[Sequence[str]]) -> None:
    """Refuse a --dataset that the run does not use.

    Raises:
        ValueError: neither DATASETS.TRAIN nor DATASETS.TEST names it.
    """
    train, test = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    for name, *_ in triples:
        if name not in train + test:
            raise ValueError(
                f"--dataset {name} is named by neither DATASETS.TRAIN {train} nor DATASETS.TEST"
                f" {test}; set one of them to \"('{name}',)\", or leave the option out"
            )


def check_best_metric(cfg: CfgNode, class_names: Sequence[str]) -> None:
    """Refuse a TEST.BEST_METRIC that no evaluation of the run can have.

    Args:
        class_names: of the data set that is trained on, which are those of the test sets.

    Raises:
        ValueError: with those that are near.
    """
    if not cfg.DATASETS.TEST:
        return
    known = known_metrics(cfg, cfg.DATASETS.TEST[0], class_names)
    metric = best_metric(cfg).removeprefix(f"{cfg.DATASETS.TEST[0]}/")
    if metric in known:
        return
    task, _, rest = metric.lower().partition("/")
    by_lower = {name.lower(): name for name in known}
    meant = f"{_TASKS.get(task, task)}/{rest}"
    near = [by_lower[name] for name in difflib.get_close_matches(meant, by_lower, n=3)]
    advice = f"did you mean {' or '.join(near)}" if near else f"set one of {', '.join(known[:20])}"
    raise ValueError(
        f"TEST.BEST_METRIC {cfg.TEST.BEST_METRIC!r} is no metric of the data set "
        f"{cfg.DATASETS.TEST[0]!r}; {advice}"
    )


def _check_evaluation(cfg: CfgNode) -> None:
    patience = cfg.TEST.EARLY_STOPPING_PATIENCE
    if patience and not cfg.TEST.EVAL_PERIOD:
        raise ValueError(
            f"TEST.EARLY_STOPPING_PATIENCE {patience} counts evaluations, and there is none before"
            " the end; set TEST.EVAL_PERIOD"
        )
    asking = {"EARLY_STOPPING_PATIENCE": patience, "VALIDATION_LOSS": cfg.TEST.VALIDATION_LOSS}
    for key, value in asking.items():
        if value and not cfg.DATASETS.TEST:
            raise ValueError(
                f"TEST.{key} {value} needs a data set to evaluate on; set DATASETS.TEST"
            )


def _warn_of_schedule(cfg: CfgNode) -> None:
    """Of what runs, as a trial of a few iterations does, but is hardly meant for a training."""
    solver = cfg.SOLVER
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        logger.warning(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is not below SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}: the learning rate never reaches SOLVER.BASE_LR {solver.BASE_LR}"
        )
    late = [step for step in solver.STEPS if step > solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        logger.warning(
            f"SOLVER.STEPS {', '.join(map(str, late))}: behind the last iteration of "
            f"SOLVER.MAX_ITER {solver.MAX_ITER}, so that the learning rate does not drop there"
        )


def check_output_dir(path: str, option: str = "OUTPUT_DIR") -> None:
    """Create the folder, and write to it.

    Args:
        option: that sets it.

    Raises:
        ValueError: the path is empty.
        PermissionError: the folder cannot be created or written to.
    """
    if not path:
        raise ValueError(f"{option} is empty; set it to a folder that can be written to")
    if "://" in path:
        return  # PathManager's handlers check remote folders
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # the latter for a path with "\0"
        reason = getattr(error, "strerror", None) or error
        raise PermissionError(f"cannot write to {path[:200]!r} ({reason}); set {option}") from error


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
