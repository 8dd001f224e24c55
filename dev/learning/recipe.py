"""What `queryinst train`'s recipe reaches on small sets, beside Mask R-CNN in the same seconds.

python -m dev.learning.recipe train     all runs that are missing, several at once, a thread each
python -m dev.learning.recipe table     recipe.jsonl and the table, of the runs that have ended

The variants, on each set and with each seed:

- recipe: from the demo's weights (--weights), the average of the weights at the end;
- raw: the same training, the weights at its end themselves;
- random: the recipe from random weights, likewise `random, raw`;
- maskrcnn: Detectron2's Mask R-CNN with a ResNet of the same depth, from random weights, and
- maskrcnn from shapes: from weights that it learned on `shapes` in --source-steps steps.

Mask R-CNN has the recipe's sizes, windows and batch, and for the two starts as many steps as fit in
the seconds of the recipe's from trained and from random weights, by the medians of a step in the
same session. Of its rates the best counts, by mask AP with the first seed. The demo's weights come
from all of `shapes`, so on its parts they are no transfer; on the coins and the cells they are.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from queryinst.data.registration import register_from_args
from queryinst.engine import Trainer
from queryinst.environment import describe_hardware
from queryinst.json_files import read_json
from queryinst.own_data.sources import Split
from queryinst.recipe.configuring import get_key
from queryinst.recipe.machine import find_machine
from queryinst.recipe.parts import Parts
from queryinst.recipe.planning import Plan, make_plan
from queryinst.recipe.structures import Request
from queryinst.speedups import malloc

from . import detectron2_side
from .data_sets import DataSet, prepare
from .detectron2_side import TimedTrainer
from .recipe_table import recipe_table
from .runs import Run
from .train import ROOT, run_in_process

SETS = ("shapes-500", "shapes-50", "coins", "cells")
SEEDS = (1, 2, 3)
RATES = (0.001, 0.002)  # of Mask R-CNN
RECORDS = ROOT / "docs" / "learning" / "recipe.jsonl"
SOURCE = "source"  # the run whose weights Mask R-CNN starts from
_TIMED_STEPS = 40
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


class Comparison:
    """The runs, those that exist and those that are missing."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.output = Path(args.output).absolute()

    def record(self, task: Task) -> dict[str, Any] | None:
        path = self.output / task.folder / "record.json"
        return read_json(str(path), dict) if path.exists() else None

    def missing(self) -> Iterator[Task]:
        """Those that can start; call it again when these have ended."""
        source = Task(SOURCE, "shapes", "random", SEEDS[0], RATES[0])
        if not self.record(source):
            yield source
        for data in self.args.data:
            for start in ("trained", "random"):
                tasks = [Task("recipe", data, start, seed) for seed in self.args.seeds]
                yield from (task for task in tasks if not self.record(task))
                is_ready = self.record(tasks[0]) and (start == "random" or self.record(source))
                yield from self._missing_of_peer(data, start) if is_ready else ()

    def _missing_of_peer(self, data: str, start: str) -> Iterator[Task]:
        first, *others = self.args.seeds
        tasks = [Task("maskrcnn", data, start, first, rate) for rate in RATES]
        if best := self.best_rate(data, start):
            tasks += [Task("maskrcnn", data, start, seed, best) for seed in others]
        yield from (task for task in tasks if not self.record(task))

    def best_rate(self, data: str, start: str) -> float:
        """Of Mask R-CNN, by mask AP with the first seed; 0.0 while runs are missing."""
        tasks = [Task("maskrcnn", data, start, self.args.seeds[0], rate) for rate in RATES]
        records = [self.record(task) for task in tasks]
        if not all(records):
            return 0.0
        return max(zip(records, RATES), key=lambda x: x[0]["final"]["mask_ap"])[1]  # type: ignore

    def records(self) -> list[dict[str, Any]]:
        """Of all runs that have ended and count."""
        found = []
        for data in self.args.data:
            for start in ("trained", "random"):
                rate = self.best_rate(data, start)
                tasks = [Task("recipe", data, start, seed) for seed in self.args.seeds]
                tasks += [
                    Task("maskrcnn", data, start, seed, lr)
                    for seed in self.args.seeds
                    for lr in (RATES if seed == self.args.seeds[0] else (rate,))
                ]
                found += [record for task in tasks if (record := self.record(task))]
        return found


def plan_of(task: Task, data: DataSet, args: argparse.Namespace, output: Path) -> Plan:
    """What `queryinst train` would train."""
    parts = Parts(
        Split("train", str(data.train_json), str(data.train_images)),
        Split("val", str(data.val_json), str(data.val_images)),
    )
    model = "none" if task.start == "random" else args.weights
    request = Request(("", ""), model, None, args.iterations, None, ("SEED", str(task.seed)))
    return make_plan(parts, find_machine("cpu"), request, data=data.name, output=str(output))


def train_recipe(task: Task, args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """One training by the recipe, evaluated with the average and without."""
    plan = plan_of(task, prepare(task.data, args.datasets), args, output)
    register_from_args(plan.triples)
    malloc.apply_to_process(plan.cfg)
    trainer = TimedTrainer(plan.cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output / "raw")
    results = {"final": trainer._last_eval_results, "raw": Trainer.test(cfg, trainer.model)}
    return {name: _figures(found) for name, found in results.items()} | {
        "steps": len(trainer.step_seconds),
        "seconds_per_step": median(trainer.step_seconds),
        "keys": {x.key: get_key(plan.cfg, x.key) for x in plan.derived},
    }


def _figures(results: Any) -> dict[str, float]:
    return _without_nan({"box_ap": results["bbox"]["AP"], "mask_ap": results["segm"]["AP"]})


def _without_nan(figures: dict[str, float]) -> dict[str, float]:
    """Detectron2's AP is NaN where nothing was predicted."""
    return {name: value if isfinite(value) else 0.0 for name, value in figures.items()}


def train_peer(task: Task, args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """One training of Mask R-CNN, for the seconds of the recipe's with the first seed."""
    data = prepare(task.data, args.datasets)
    comparison = Comparison(args)
    run = Run("maskrcnn", data, args.source_steps, task.lr, task.seed, str(output), evaluations=1)
    if task.model != SOURCE:
        ours = comparison.record(Task("recipe", task.data, task.start, args.seeds[0]))
        assert ours is not None
        opts = [word for key in _SHARED for word in (key, ours["keys"][key])]
        timed = replace(run, steps=_TIMED_STEPS, evaluations=0, opts=tuple(opts))
        folder = output / "timed"
        folder.mkdir(parents=True, exist_ok=True)
        seconds = detectron2_side.train(replace(timed, output=str(folder)))["seconds_per_step"]
        steps = max(1, round(ours["steps"] * ours["seconds_per_step"] / seconds))
        source = comparison.output / Task(SOURCE, "shapes", "random", SEEDS[0], RATES[0]).folder
        weights = str(source / "model_final.pth") if task.start == "trained" else ""
        run = replace(run, steps=steps, opts=tuple(opts), weights=weights)
    measured = detectron2_side.train(run)
    final = {name: measured["curve"][-1][name] for name in ("box_ap", "mask_ap")}
    return {
        "final": _without_nan(final),
        "steps": run.steps,
        "seconds_per_step": measured["seconds_per_step"],
    }


def do_task(task: Task, args: argparse.Namespace) -> None:
    """Train, and write the record of the run."""
    output = Path(args.output).absolute() / task.folder
    output.mkdir(parents=True, exist_ok=True)
    train = train_recipe if task.model == "recipe" else train_peer
    record = task._asdict() | train(task, args, output) | {"machine": describe_hardware()}
    (output / "record.json").write_text(json.dumps(record))
    for path in output.rglob("*.pth") if task.model != SOURCE else ():
        path.unlink()  # up to a gigabyte each run


def train_missing(comparison: Comparison) -> int:
    """Train until nothing is missing; how many runs failed."""
    args, failed = comparison.args, set[Task]()
    with ThreadPoolExecutor(args.jobs) as pool:
        while tasks := [task for task in comparison.missing() if task not in failed]:
            statuses = pool.map(lambda task: _in_process(task, args), tasks)
            for task, status in zip(tasks, statuses):
                print(f"{task.folder}: {'failed' if status else 'done'}", flush=True)
                failed |= {task} if status else set()
    return len(failed)


def _in_process(task: Task, args: argparse.Namespace) -> int:
    command = [sys.executable, "-W", "ignore", "-m", "dev.learning.recipe", "one", "--task"]
    command += [json.dumps(task), "--weights", args.weights, "--output", args.output]
    command += ["--datasets", args.datasets, "--source-steps", str(args.source_steps)]
    command += ["--seeds", *map(str, args.seeds)]
    command += ["--iterations", str(args.iterations)] if args.iterations else []
    return run_in_process(command, Path(args.output).absolute() / task.folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=("train", "table", "one"))
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS, help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 1 2 3)")
    parser.add_argument("--weights", default="output/demo/model_final.pth", help="(%(default)s)")
    parser.add_argument("--iterations", type=int, help="(default: the recipe's)")
    parser.add_argument("--source-steps", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default: %(default)s)")
    parser.add_argument("--datasets", default="datasets", help="(default: %(default)s)")
    parser.add_argument("--output", default="output/recipe", help="(default: %(default)s)")
    parser.add_argument("--task", type=json.loads, help="of the job `one`")
    args = parser.parse_args()
    comparison = Comparison(args)
    try:
        if args.job == "one":
            do_task(Task(*args.task), args)
        elif args.job == "train":
            return min(1, train_missing(comparison))
        else:
            records = comparison.records()
            if not records:
                raise ValueError(f"{args.output} has no records; run `recipe train` first")
            RECORDS.write_text("".join(json.dumps(record) + "\n" for record in records))
            print(recipe_table(records))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"recipe: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
