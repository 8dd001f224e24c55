"""One training by the recipe, or of Mask R-CNN beside it, and the time of their steps."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from queryinst.data.registration import register_from_args
from queryinst.engine import Trainer
from queryinst.own_data.sources import Split
from queryinst.recipe.configuring import get_key
from queryinst.recipe.machine import find_machine
from queryinst.recipe.parts import Parts
from queryinst.recipe.planning import Plan, make_plan
from queryinst.recipe.structures import Request
from queryinst.speedups import malloc

from . import detectron2_side
from .data_sets import prepare
from .detectron2_side import TimedTrainer
from .runs import Run

# What Mask R-CNN takes from the recipe.
_SHARED = (
    *("INPUT.CROP.ENABLED", "INPUT.CROP.TYPE", "INPUT.CROP.SIZE", "INPUT.MIN_SIZE_TRAIN"),
    *("INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "INPUT.RANDOM_FLIP"),
    *("INPUT.COPY_PASTE", "TEST.DETECTIONS_PER_IMAGE", "SOLVER.IMS_PER_BATCH"),
)


class Task(NamedTuple):
    """A training of the recipe (`lr` 0) or of Mask R-CNN, from "trained" or "random" weights."""

    model: str
    data: str
    start: str
    seed: int
    lr: float = 0.0

    @property
    def folder(self) -> str:
        rate = f"_lr-{self.lr:g}" if self.lr else ""
        return f"{self.model}_{self.data}_{self.start}{rate}_seed-{self.seed}"


def plan_of(task: Task, args: argparse.Namespace, output: Path) -> Plan:
    """What `queryinst train` would train on a CPU, to be trained on `args.device`."""
    data = prepare(task.data, args.datasets)
    parts = Parts(
        Split("train", str(data.train_json), str(data.train_images)),
        Split("val", str(data.val_json), str(data.val_images)),
    )
    model = "none" if task.start == "random" else args.weights
    request = Request(("", ""), model, None, args.iterations, None, ("SEED", str(task.seed)))
    plan = make_plan(parts, find_machine("cpu"), request, data=data.name, output=str(output))
    plan.cfg.defrost()
    plan.cfg.MODEL.DEVICE = args.device
    plan.cfg.freeze()
    return plan


def train_recipe(task: Task, args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """One training by the recipe, evaluated with the average and without.

    The losses of images held out, which change nothing, are left out.
    """
    plan = plan_of(task, args, output)
    trainer = _train(plan, ("TEST.VALIDATION_LOSS", False))
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output / "raw")
    results = {"final": trainer._last_eval_results, "raw": Trainer.test(cfg, trainer.model)}
    return {name: _figures(found) for name, found in results.items()} | {
        "steps": len(trainer.step_seconds),
        "keys": {x.key: get_key(plan.cfg, x.key) for x in plan.derived},
    }


def _train(plan: Plan, opts: Iterable[Any]) -> TimedTrainer:
    register_from_args(plan.triples)
    malloc.apply_to_process(plan.cfg)
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    trainer = TimedTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def _figures(results: Any) -> dict[str, float]:
    return _without_nan({"box_ap": results["bbox"]["AP"], "mask_ap": results["segm"]["AP"]})


def _without_nan(figures: dict[str, float]) -> dict[str, float]:
    """Detectron2's AP is NaN where nothing was predicted."""
    return {name: value if isfinite(value) else 0.0 for name, value in figures.items()}


def train_peer(
    task: Task,
    args: argparse.Namespace,
    output: Path,
    *,
    steps: int,
    weights: str = "",
    like: CfgNode | None = None,
) -> dict[str, Any]:
    """One training of Mask R-CNN.

    Args:
        weights: of another one; "" for random ones.
        like: the recipe's; without it, all keys are its own.
    """
    data = prepare(task.data, args.datasets)
    opts = ("MODEL.DEVICE", args.device, *(_shared_opts(like) if like else ()))
    run = Run("maskrcnn", data, steps, task.lr, task.seed, str(output), opts=opts, weights=weights)
    measured = detectron2_side.train(replace(run, evaluations=1))
    final = {name: measured["curve"][-1][name] for name in ("box_ap", "mask_ap")}
    return {"final": _without_nan(final), "steps": steps}


def _shared_opts(cfg: CfgNode) -> tuple[Any, ...]:
    return tuple(word for key in _SHARED for word in (key, get_key(cfg, key)))


def time_task(task: Task, args: argparse.Namespace) -> float:
    """The median seconds of the first `args.iterations` steps, without evaluation."""
    with TemporaryDirectory() as folder:
        plan = plan_of(task, args, Path(folder))
        if task.model == "recipe":
            no_evaluation = ("TEST.VALIDATION_LOSS", False, "TEST.EARLY_STOPPING_PATIENCE", 0)
            return median(_train(plan, ("DATASETS.TEST", (), *no_evaluation)).step_seconds)
        data, opts = prepare(task.data, args.datasets), _shared_opts(plan.cfg)
        run = Run("maskrcnn", data, args.iterations, task.lr, task.seed, folder, opts=opts)
        return detectron2_side.train(replace(run, evaluations=0))["seconds_per_step"]
