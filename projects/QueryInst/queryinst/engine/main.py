"""train_net.py's body, for a checkout and for users of an installed wheel."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup, launch
from detectron2.utils import comm

from ..checkpoint import QueryInstCheckpointer
from ..data.checks import check_datasets
from .checks import check_run
from .evaluation import results_table, with_device
from .setup import setup_cfg
from .trainer import Trainer

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> Mapping:
    """Train or evaluate, in this process.

    Args:
        args: config_file, opts, resume, eval_only, as Detectron2's default_argument_parser's.

    Returns:
        The last results: data set -> task -> metric -> value. Empty without test sets, and on
        processes other than the main one.
    """
    cfg = setup_cfg(args.config_file, args.opts)
    cfg = with_device(cfg, training=not args.eval_only)
    check_run(cfg, training=not args.eval_only, resume=args.resume)
    default_setup(cfg, args)
    check_datasets(cfg, training=not args.eval_only)
    results = evaluate(cfg, args.resume) if args.eval_only else train(cfg, args.resume)
    if comm.is_main_process() and results:
        by_name = {cfg.DATASETS.TEST[0]: results} if len(cfg.DATASETS.TEST) == 1 else results
        logger.info(f"Results, also in {cfg.OUTPUT_DIR}/results.json:\n{results_table(by_name)}")
        return by_name
    return {}


def train(cfg: CfgNode, resume: bool) -> Mapping:
    """Train, evaluating on the way; returns the last results as `Trainer.test` does."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return getattr(trainer, "_last_eval_results", {})


def evaluate(cfg: CfgNode, resume: bool) -> Mapping:
    """Evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint of OUTPUT_DIR."""
    model = Trainer.build_model(cfg).eval()  # in eval mode weights must be complete
    checkpointer = QueryInstCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return Trainer.test(cfg, model)


def run(args: argparse.Namespace) -> int:
    """Launch `main` in as many processes as asked for; one line on stderr if it fails.

    The traceback goes to OUTPUT_DIR/log.txt.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for a configuration that cannot be read.
    """
    try:
        cfg = setup_cfg(args.config_file, args.opts)  # before any process starts
    except Exception as error:
        _print_error(error)
        return 2
    if args.num_gpus > 1 and not cfg.MODEL.DEVICE.startswith("cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else launch() asks for one GPU per process
    try:
        launch(
            _main_logging_errors,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except torch.multiprocessing.ProcessRaisedException as error:
        _print_error(error)
        return 1
    except (Exception, KeyboardInterrupt) as error:
        _print_error(error)
        return 1
    return 0


def _main_logging_errors(args: argparse.Namespace) -> None:
    """`main`, whose traceback goes to the log file alone."""
    try:
        main(args)
    except Exception:
        for handler in logging.getLogger("detectron2").handlers:
            if isinstance(handler, logging.FileHandler) or _is_file(handler):
                handler.stream.write(traceback.format_exc())
                handler.flush()
        raise


def _is_file(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream is not None and stream not in (sys.stdout, sys.stderr)


def _print_error(error: BaseException) -> None:
    """One line on stderr."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, torch.multiprocessing.ProcessRaisedException):
        text = text.strip().splitlines()[-1]  # of the other process's traceback
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    line = " ".join(text.split()) or type(error).__name__
    print(f"train_net.py: error: {line}", file=sys.stderr, flush=True)
