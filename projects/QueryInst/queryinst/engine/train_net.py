"""train_net.py's body, for a checkout and for users of an installed wheel."""

import argparse
import logging
from contextlib import nullcontext

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..checkpoint import QueryInstCheckpointer, read_meta
from ..checkpoint.inference_only import fit_to_weights
from ..data.checks import check_datasets
from ..data.registration import register_from_args
from ..speedups import speed_up_process
from .checks import check_best_metric, check_dataset_args, check_output_dir, check_run
from .errors import describe_error, failing_in_one_line, print_error
from .evaluation import Results, by_dataset, results_table
from .logs import log_to
from .peers import speaking_once
from .predictor import cfg_from_checkpoint
from .processes import run_in_processes
from .run_lock import locked
from .setup import find_config_file, setup_cfg, with_device
from .stopping import Stopped, stop
from .summary import describe_training
from .trainer import Trainer
from .tta_evaluation import add_results
from .writing import naming

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> Results:
    """Train or evaluate, in this process.

    Args:
        args: config_file, opts, resume and eval_only of Detectron2's default_argument_parser; and
            dataset, (name, JSON, image folder) triples of data sets to register. Each is optional.
            With eval_only and without config_file the configuration is that of MODEL.WEIGHTS.

    Returns:
        The last results: data set -> task -> metric -> value. Empty without test sets, and on
        processes other than the main one.

    Raises:
        FolderInUseError: another run writes to OUTPUT_DIR.
        ValueError, KeyError, OSError, ...: the run cannot work. One line, before training starts
            if possible.
    """
    return run_with(_cfg_of(args), args)


def run_with(
    cfg: CfgNode, args: argparse.Namespace, model: torch.nn.Module | None = None
) -> Results:
    """As `main`, with a configuration, and perhaps a model to evaluate, that are at hand.

    Args:
        args: of which config_file and opts are only logged.
        model: with Detectron2's contract; None for that of `cfg`.
    """
    check_output_dir(cfg.OUTPUT_DIR)
    with locked(cfg.OUTPUT_DIR) if comm.is_main_process() else nullcontext():
        comm.synchronize()  # nothing is written before the main process has the lock
        return _run(args, cfg, model)


def _run(args: argparse.Namespace, cfg: CfgNode, model: torch.nn.Module | None) -> Results:
    training = not getattr(args, "eval_only", False)
    resume = getattr(args, "resume", False)
    config_file = getattr(args, "config_file", "")
    log_to(cfg.OUTPUT_DIR)
    cfg = with_device(cfg, training=training)
    triples = getattr(args, "dataset", None) or ()
    register_from_args(triples)
    check_dataset_args(cfg, triples)
    check_run(cfg, training=training, resume=resume)
    if comm.get_local_rank() == 0:
        check_datasets(cfg, training=training)
    comm.synchronize()
    path = find_config_file(config_file) if config_file else ""
    with naming(f"{cfg.OUTPUT_DIR}/config.yaml"):
        default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": path}))
    results = train(cfg, resume) if training else evaluate(cfg, resume, model)
    if results:
        table = results_table(results)
        logger.info(f"Results, in full in {cfg.OUTPUT_DIR}/results.json:\n{table}")
    return results


def train(cfg: CfgNode, resume: bool = False) -> Results:
    """Train, evaluating on the way; returns the last results as `main` does."""
    trainer = Trainer(cfg)
    check_best_metric(cfg, trainer.meta["thing_classes"])
    trainer.resume_or_load(resume=resume)
    if comm.is_main_process():
        logger.info(describe_training(trainer))
    trainer.train()
    results = getattr(trainer, "_last_eval_results", None)
    return by_dataset(cfg, results) if results else {}


def evaluate(cfg: CfgNode, resume: bool = False, model: torch.nn.Module | None = None) -> Results:
    """Evaluate `model`, or MODEL.WEIGHTS, or with `resume` the last checkpoint.

    With TEST.AUG.ENABLED a second time, with test-time augmentation. Returns as `main` does.
    """
    model = model or _load(cfg, resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results = add_results(cfg, results, Trainer.test_with_TTA(cfg, model))
    if not comm.is_main_process():
        return {}
    verify_results(cfg, results)
    return by_dataset(cfg, results)


def _load(cfg: CfgNode, resume: bool) -> torch.nn.Module:
    if not resume:  # else the checkpointer chooses the file
        cfg = fit_to_weights(cfg)
    model = Trainer.build_model(cfg).eval()  # in eval mode no key may be missing
    checkpointer = QueryInstCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def run(args: argparse.Namespace, program: str = "train_net.py") -> int:
    """Call `main` in `args.num_gpus` processes. If it fails, print one line on stderr.

    The traceback goes to OUTPUT_DIR/log.txt. SIGINT, SIGTERM or SIGUSR1, to this process or any
    that it starts, ends a training behind its running step, with a checkpoint; a training's
    evaluation behind the running image; all else at once. A second one ends everything at once.

    Args:
        args: as `main`'s; and num_gpus, num_machines, machine_rank, dist_url.
        program: the command that the line names.

    Returns:
        The exit status: 0; 1 for a failed run; 2 for an invalid configuration; 75 for a training
        that a signal ended with a checkpoint, for --resume; 128 + the signal's number (130, 143,
        138) for a run that a signal ended at once.
    """
    status = 2
    try:
        with stop.handled():
            with failing_in_one_line(""):
                cfg = _cfg_of(args)
            status = 1
            run_in_processes(_run_in_this_process, args, cfg)
    except Stopped as error:
        return error.status
    except KeyboardInterrupt as error:
        print_error(describe_error(error), program)
        return getattr(error, "status", 130)
    except Exception as error:
        print_error(describe_error(error), program)
        return status
    return 0


def _cfg_of(args: argparse.Namespace) -> CfgNode:
    config_file, opts = getattr(args, "config_file", ""), list(getattr(args, "opts", None) or ())
    cfg = setup_cfg(config_file, opts)
    weights = cfg.MODEL.WEIGHTS
    is_alone = not config_file and getattr(args, "eval_only", False) and weights
    if (
        not is_alone
        or getattr(args, "resume", False)
        or not (read_meta(weights) or {}).get("config")
    ):
        return cfg
    # Where the training wrote is not where its evaluation by another has to.
    return cfg_from_checkpoint(weights, ["OUTPUT_DIR", cfg.OUTPUT_DIR, *opts])


def _run_in_this_process(args: argparse.Namespace, output_dir: str) -> None:
    with failing_in_one_line(output_dir), stop.handled():
        if not getattr(args, "eval_only", False):
            speed_up_process(_cfg_of(args))
        with speaking_once(_cfg_of(args).DISTRIBUTED.TIMEOUT_MINUTES):
            main(args)
