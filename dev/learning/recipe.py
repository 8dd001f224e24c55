"""What `queryinst train`'s recipe reaches on small sets, beside Mask R-CNN in the same seconds.

python -m dev.learning.recipe time      seconds of a step of each model, on a quiet machine
python -m dev.learning.recipe train     all runs that are missing, several at once, a thread each
python -m dev.learning.recipe table     recipe.jsonl and the table, of the runs that have ended

The variants, on each set and with each seed:

- recipe: from the demo's weights (--weights), the average of the weights at the end;
- raw: the same training, the weights at its end themselves;
- random: the recipe from random weights, likewise `random, raw`;
- maskrcnn: Detectron2's Mask R-CNN with a ResNet of the same depth, from random weights, and
- maskrcnn from shapes: from weights that it learned on `shapes` in --source-steps steps.

Mask R-CNN has the recipe's sizes, windows, batch and rate, and for the two starts as many steps as
fit in the seconds of the recipe's from trained and from random weights, by the quiet machine's
seconds per step. AP after a number of steps depends neither on how busy a machine is nor, but for
rounding, on the device, so `train --device cuda` may do the work; the recipe is always the one for
a CPU. The demo's weights come from all of `shapes`, so on its parts they are no transfer; on the
coins and the cells they are.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from queryinst.environment import describe_hardware
from queryinst.json_files import read_json

from .recipe_runs import Task, plan_of, time_task, train_peer, train_recipe
from .recipe_table import recipe_table
from .train import ROOT, run_in_process

SETS = ("shapes-500", "shapes-50", "coins", "cells")
SEEDS = (1, 2, 3)
RATE = 0.001  # of Mask R-CNN, as of the recipe
FOLDER = ROOT / "docs" / "learning"
SECONDS, RECORDS = FOLDER / "recipe_seconds.json", FOLDER / "recipe.jsonl"
STARTS = ("trained", "random")
# The run whose weights Mask R-CNN starts from.
SOURCE = "source"
SOURCE_TASK = Task(SOURCE, "shapes", "random", SEEDS[0], RATE)
_TIMED_STEPS = 40


class Comparison:
    """The runs, those that exist and those that are missing."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.output = Path(args.output).absolute()

    def record(self, task: Task) -> dict[str, Any] | None:
        path = self.output / task.folder / "record.json"
        return read_json(str(path), dict) if path.exists() else None

    def tasks(self) -> Iterator[Task]:
        """All of the table."""
        for data in self.args.data:
            for start in STARTS:
                for seed in self.args.seeds:
                    yield Task("recipe", data, start, seed)
                    yield Task("maskrcnn", data, start, seed, RATE)

    def missing(self) -> Iterator[Task]:
        """Those that can start; call it again when these have ended."""
        has_source = self.record(SOURCE_TASK)
        if not has_source:
            yield SOURCE_TASK
        for task in self.tasks():
            waits = task.model == "maskrcnn" and task.start == "trained" and not has_source
            if not waits and not self.record(task):
                yield task

    def records(self) -> list[dict[str, Any]]:
        """Of all runs of the table that have ended."""
        return [record for task in self.tasks() if (record := self.record(task))]


def read_seconds() -> dict[str, dict[str, float]]:
    """Of a step: "recipe" -> "SET START", and "maskrcnn" -> SET, -> seconds."""
    if not SECONDS.exists():
        raise ValueError(f"{SECONDS} is missing; run `recipe time` on a quiet machine first")
    return read_json(str(SECONDS), dict)["seconds"]


def seconds_of(task: Task) -> float:
    """Of a step of the recipe or of Mask R-CNN."""
    key = task.data if task.model == "maskrcnn" else f"{task.data} {task.start}"
    return read_seconds()[task.model][key]


def measure_seconds(args: argparse.Namespace) -> None:
    """Write the seconds of a step, with this machine's default threads. Stop all else before.

    Those of sets that are not asked for stay.
    """
    seconds = read_seconds() if SECONDS.exists() else {"recipe": {}, "maskrcnn": {}}
    for data in args.data:
        for start in STARTS:
            measured = _timed(Task("recipe", data, start, SEEDS[0]), args)
            seconds["recipe"][f"{data} {start}"] = measured
        seconds["maskrcnn"][data] = _timed(Task("maskrcnn", data, "random", SEEDS[0], RATE), args)
    content = {"seconds": seconds, "machine": describe_hardware()}
    SECONDS.write_text(json.dumps(content, indent=2) + "\n")


def _timed(task: Task, args: argparse.Namespace) -> float:
    command = [*_command("timed", task, args), "--iterations", str(_TIMED_STEPS)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def do_task(task: Task, args: argparse.Namespace) -> None:
    """Train, and write the record of the run."""
    comparison = Comparison(args)
    output = comparison.output / task.folder
    output.mkdir(parents=True, exist_ok=True)
    record = task._asdict() | _train(task, comparison, output)
    record["machine"] = describe_hardware(args.device)
    (output / "record.json").write_text(json.dumps(record))
    for path in output.rglob("*.pth") if task.model != SOURCE else ():
        path.unlink()  # up to a gigabyte each run


def _train(task: Task, comparison: Comparison, output: Path) -> dict[str, Any]:
    args = comparison.args
    if task.model == SOURCE:
        return train_peer(task, args, output, steps=args.source_steps)
    seconds = seconds_of(task)
    if task.model == "recipe":
        found = train_recipe(task, args, output)
        return found | {"seconds": found["steps"] * seconds}
    cfg = plan_of(task, args, output).cfg
    planned = cfg.SOLVER.MAX_ITER * seconds_of(task._replace(model="recipe"))
    steps = max(1, round(planned / seconds))
    source = comparison.output / SOURCE_TASK.folder / "model_final.pth"
    weights = str(source) if task.start == "trained" else ""
    found = train_peer(task, args, output, steps=steps, weights=weights, like=cfg)
    return found | {"seconds": steps * seconds}


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
    command = _command("one", task, args)
    command += ["--iterations", str(args.iterations)] if args.iterations else []
    return run_in_process(command, Path(args.output).absolute() / task.folder)


def _command(job: str, task: Task, args: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-m", "dev.learning.recipe", job, "--task"]
    command += [json.dumps(task), "--weights", args.weights, "--output", args.output]
    command += ["--datasets", args.datasets, "--source-steps", str(args.source_steps)]
    return [*command, "--device", args.device]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=("time", "train", "table", "one", "timed"))
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS, help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 1 2 3)")
    parser.add_argument("--weights", default="output/demo/model_final.pth", help="(%(default)s)")
    parser.add_argument("--iterations", type=int, help="(default: the recipe's)")
    parser.add_argument("--source-steps", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default: %(default)s)")
    parser.add_argument("--datasets", default="datasets", help="(default: %(default)s)")
    parser.add_argument("--output", default="output/recipe", help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="to train on (default: %(default)s)")
    parser.add_argument("--task", type=json.loads, help="of the jobs `one` and `timed`")
    args = parser.parse_args()
    comparison = Comparison(args)
    try:
        if args.job == "time":
            measure_seconds(args)
        elif args.job == "timed":
            print(time_task(Task(*args.task), args))
        elif args.job == "one":
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
