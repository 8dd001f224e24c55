"""Fill the table of QueryInst, Mask R-CNN and MMDetection's QueryInst after the same seconds.

python -m dev.learning.compare time     seconds of a step of each model, on a quiet machine
python -m dev.learning.compare train    all runs that are missing, several at once, a thread each
python -m dev.learning.compare table    table and, if of all sets and models, records and curves
python -m dev.learning.compare ablations    the table of what was tried, out of ablations.jsonl

Every model gets BUDGET seconds of training steps on a set: as many steps as fit, by the quiet
machine's seconds per step. AP after a number of steps does not depend on how busy the machine is.
The learning rate of QueryInst and of Mask R-CNN is on each set the best of three from random
weights, by mask AP with the first seed; MMDetection's has one. The table has the mean over three
seeds.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from queryinst.environment import describe_hardware
from queryinst.json_files import read_json

from .curves import draw_curves
from .data_sets import NAMES, SUBSETS, prepare
from .runs import MODELS, Run, read_records, with_output
from .tables import ablation_table, best_runs, goal_table
from .train import ROOT, WEIGHTS, run_in_process

BUDGET = {"shapes": 150, "shapes-500": 100, "shapes-50": 100, "coins": 50, "cells": 80}  # seconds
SEEDS = (1, 2, 3)
RATES = {
    "queryinst": (0.0005, 0.001, 0.002),
    "maskrcnn": (0.0005, 0.001, 0.002),
    "mmdet": (0.0005,),
}
# What a model's configuration gets on a set: QueryInst is trained as docs/learning.md advises.
OPTS: dict[tuple[str, str], tuple[Any, ...]] = {
    # A crop has up to 31 cells, each a sixth of its side: more queries, on a finer grid.
    ("queryinst", "cells"): (
        *("MODEL.QUERYINST.NUM_QUERIES", 50, "MODEL.QUERYINST.INITIAL_GRID_SIZES", "(0.18,)"),
        *("MODEL.QUERYINST.DENOISING_QUERIES", 20),
    )
}
# Queries start anew where the weights have another number of them.
PRETRAINED_OPTS = {"queryinst": ("MODEL.QUERYINST.ALLOW_UNLOADED", "('initial_queries',)")}
# The set whose best run with the first seed gives the weights that a set starts from.
SOURCE = {name: "cells" if name.startswith("shapes") else "shapes" for name in NAMES}
FOLDER = ROOT / "docs" / "learning"
SECONDS, RECORDS = FOLDER / "step_seconds.json", FOLDER / "runs.jsonl"
TIMED_STEPS = 40  # more than 30: Mask R-CNN's mask head has more RoIs once boxes are found
STARTS = ("random", "pretrained")


class Cell(NamedTuple):
    """A model on a data set, from random weights or from those of another set."""

    model: str
    data: str
    pretrained: bool


class Comparison:
    """The runs of the table: those that exist, and those that are missing."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder = Path(args.output).absolute()
        if not SECONDS.exists():
            raise ValueError(f"{SECONDS} is missing; run `compare time` on a quiet machine first")
        self.seconds: dict[str, dict[str, float]] = read_json(str(SECONDS), dict)["seconds"]

    def run(self, cell: Cell, lr: float, seed: int) -> Run:
        """A run of a cell; its weights, if any, are of the best run on the other set."""
        data = prepare(cell.data, self.args.datasets)
        by_set = self.seconds[cell.model]
        if cell.data not in by_set:
            raise ValueError(f"{SECONDS} lacks {cell.data}; run `compare time` on a quiet machine")
        steps = int(BUDGET[cell.data] / by_set[cell.data])
        opts = OPTS.get((cell.model, cell.data), ())
        run = Run(cell.model, data, steps, lr, seed, output="", evaluations=3, opts=opts)
        if cell.pretrained:
            source = Cell(cell.model, SOURCE[cell.data], False)
            best = self.run(source, self.best_rate(source), SEEDS[0])
            opts = (*opts, *PRETRAINED_OPTS.get(cell.model, ()))
            run = replace(run, weights=str(Path(best.output, WEIGHTS[cell.model])), opts=opts)
        return with_output(run, self.folder)

    def record(self, run: Run) -> dict[str, Any] | None:
        path = Path(run.output, "record.json")
        return read_json(str(path), dict) if path.exists() else None

    def best_rate(self, cell: Cell) -> float:
        """The rate of most mask AP with the first seed; 0.0 while runs are missing."""
        records = [self.record(self.run(cell, lr, SEEDS[0])) for lr in self.rates(cell)]
        done = [record for record in records if record]
        if len(done) < len(records):
            return 0.0
        return best_runs(done)[0]["lr"]

    def rates(self, cell: Cell) -> tuple[float, ...]:
        """Those to try; on trained weights, the best from random ones on the same set."""
        if cell.pretrained:
            return (self.best_rate(cell._replace(pretrained=False)),)
        return RATES[cell.model]

    def can_start(self, cell: Cell) -> bool:
        """Whether the weights that it starts from are known, and the rate."""
        needed = (Cell(cell.model, SOURCE[cell.data], False), cell._replace(pretrained=False))
        return not cell.pretrained or all(self.best_rate(other) > 0 for other in needed)

    def records(self, cells: list[Cell]) -> list[dict[str, Any]]:
        """Of all runs of these cells that have ended."""
        records = []
        for cell in cells:
            if not self.can_start(cell):
                continue
            runs = [self.run(cell, lr, seed) for lr in self.rates(cell) for seed in SEEDS]
            records += [record for run in runs if (record := self.record(run))]
        return records

    def next_runs(self, cells: list[Cell]) -> Iterator[Run]:
        """Missing runs that can start: all rates with one seed first, then the best with others.

        A cell that waits for another gives none; call it again when runs have ended.
        """
        for cell in cells:
            if not self.can_start(cell):
                continue
            runs = [self.run(cell, lr, SEEDS[0]) for lr in self.rates(cell)]
            if best := self.best_rate(cell):
                runs += [self.run(cell, best, seed) for seed in SEEDS[1:]]
            yield from (run for run in runs if not self.record(run))


def train_missing(comparison: Comparison, cells: list[Cell]) -> int:
    """Run what is missing until nothing is; returns how many runs and cells it had to leave."""
    failed: set[str] = set()
    with ThreadPoolExecutor(comparison.args.jobs) as pool:
        while True:
            runs = [run for run in comparison.next_runs(cells) if run.output not in failed]
            if not runs:
                waiting = [cell for cell in cells if not comparison.can_start(cell)]
                for cell in waiting:
                    source = SOURCE[cell.data]
                    print(f"{cell.model} on {cell.data} waits for its rates there and on {source}")
                return len(failed) + len(waiting)
            # One wave: what it makes possible comes in the next.
            train = partial(_train_in_process, comparison.args)
            for run, status in zip(runs, pool.map(train, runs)):
                print(f"{run.output}: {'failed' if status else 'done'}", flush=True)
                if status:
                    failed.add(run.output)


def command_of(run: Run, args: argparse.Namespace) -> list[str]:
    """The call of dev.learning.train for a run, with the folders of `args`."""
    values = {
        "model": run.model,
        "data": run.data.name,
        "steps": run.steps,
        "lr": run.lr,
        "seed": run.seed,
        "evaluations": run.evaluations,
        "batch": run.batch,
        "output": Path(run.output).parent,
        "datasets": Path(args.datasets).absolute(),
        "peer": Path(args.peer).absolute(),
        **({"weights": run.weights} if run.weights else {}),
        **({"label": run.label} if run.label else {}),
    }
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-W", "ignore", "-m", "dev.learning.train", *flags]
    return [*command, *map(str, run.opts)]


def _train_in_process(args: argparse.Namespace, run: Run) -> int:
    return run_in_process(command_of(run, args), Path(run.output))


def measure_seconds(args: argparse.Namespace) -> None:
    """Write the seconds of a step of each model on each set, with this machine's default threads.

    The models take turns, two rounds; the faster median counts. Stop everything else before. Those
    of sets that are not asked for stay.
    """
    names = [name for name in args.data if name not in SUBSETS]
    seconds: dict[str, dict[str, float]] = {model: {} for model in MODELS}
    for data, model in [*itertools.product(names, MODELS)] * 2:
        data_set, opts = prepare(data, args.datasets), OPTS.get((model, data), ())
        run = Run(model, data_set, TIMED_STEPS, 0.0005, SEEDS[0], output="", opts=opts)
        with TemporaryDirectory() as folder:
            run = with_output(replace(run, evaluations=0), Path(folder))
            subprocess.run(command_of(run, args), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            measured = read_json(str(Path(run.output, "record.json")), dict)["seconds_per_step"]
        seconds[model][data] = min(measured, seconds[model].get(data, measured))
    if SECONDS.exists():
        former = read_json(str(SECONDS), dict)["seconds"]
        seconds = {model: former[model] | seconds[model] for model in MODELS}
    for by_set in seconds.values():  # images and batches of the subsets are those of the set
        if "shapes" in by_set:
            by_set |= dict.fromkeys(SUBSETS, by_set["shapes"])
    content = {"seconds": seconds, "machine": describe_hardware()}
    FOLDER.mkdir(exist_ok=True)
    SECONDS.write_text(json.dumps(content, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("time", "train", "table", "ablations"))
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES, help="(default: all)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="(all)")
    parser.add_argument("--start", nargs="+", choices=STARTS, default=STARTS, help="(both)")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default: %(default)s)")
    parser.add_argument("--datasets", default="datasets", help="(default: %(default)s)")
    parser.add_argument("--output", default="output/learning", help="(default: %(default)s)")
    parser.add_argument("--peer", default=".venv-peer", help="(default: %(default)s)")
    args = parser.parse_args()
    try:
        return _do(args)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 1


def _do(args: argparse.Namespace) -> int:
    if args.task == "time":
        measure_seconds(args)
        return 0
    if args.task == "ablations":
        records = read_records(FOLDER / "ablations.jsonl")
        print(ablation_table(records, records[0]["label"]))
        return 0
    chosen = itertools.product(args.start, args.data, args.models)
    cells = [Cell(model, data, start == "pretrained") for start, data, model in chosen]
    comparison = Comparison(args)
    if args.task == "train":
        return min(1, train_missing(comparison, cells))
    records = comparison.records(cells)
    if not records:
        raise ValueError(f"{args.output} has no record of these; run `compare train` first")
    if len(cells) == len(STARTS) * len(NAMES) * len(MODELS):
        RECORDS.write_text("".join(json.dumps(record) + "\n" for record in records))
        draw_curves(records, comparison.seconds, FOLDER / "curves.svg")
    print(goal_table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
