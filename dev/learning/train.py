"""Train one model on one data set, and record AP over the seconds of its steps.

python -m dev.learning.train --model queryinst --data shapes --steps 2000 --lr 0.001 --seed 1

Writes a folder for the run below --output, with record.json, which is also printed, and the final
weights, which --weights takes. MMDetection's model runs in the environment that --peer names.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from queryinst.environment import describe_hardware
from queryinst.json_files import read_json

from . import detectron2_side
from .data_sets import NAMES, prepare
from .runs import MODELS, Run, with_output

ROOT = Path(__file__).resolve().parents[2]
_PEER_PATHS = ("projects/QueryInst", "tests/parity", "tests/integration", ".")
WEIGHTS = {"queryinst": "model_final.pth", "maskrcnn": "model_final.pth", "mmdet": "final.pth"}


def train(run: Run, peer: Path) -> dict[str, Any]:
    """Train, and write record.json; a run that has one already is not run again.

    Raises:
        ValueError: the record is of another configuration.
        RuntimeError: MMDetection's side failed; the last line that it printed.
    """
    folder = Path(run.output)
    record = folder / "record.json"
    digest = "" if run.model == "mmdet" else detectron2_side.digest(run)
    if record.exists():
        result = read_json(str(record), dict)
        if result["digest"] != digest:
            raise ValueError(f"{record} is of another configuration; remove its folder")
        return result
    folder.mkdir(parents=True, exist_ok=True)
    measured = _train_mmdet(run, peer) if run.model == "mmdet" else detectron2_side.train(run)
    result = run.described() | measured | {"machine": describe_hardware(), "digest": digest}
    record.write_text(json.dumps(result))
    return result


def run_in_process(command: list[str], folder: Path) -> int:
    """Run a command with one thread; its output goes to output.txt. Returns its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder / "output.txt", "w") as output:
        return subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output
        ).returncode


def _train_mmdet(run: Run, peer: Path) -> dict[str, Any]:
    data, folder = run.data, Path(run.output)
    steps = [run.steps * (n + 1) // run.evaluations for n in range(run.evaluations)]
    described = {
        **{name: str(getattr(data, name)) for name in ("train_json", "train_images")},
        **{name: str(getattr(data, name)) for name in ("val_json", "val_images")},
        "class_names": list(data.class_names),
        "options": list(data.options),
        "eval_steps": steps,
        **{name: getattr(run, name) for name in ("steps", "batch", "lr", "seed", "weights")},
        "output": run.output,
    }
    path = folder / "run.json"
    path.write_text(json.dumps(described))
    paths = os.pathsep.join(str(ROOT / name) for name in _PEER_PATHS)
    command = [str(peer / "bin" / "python"), "-W", "ignore", "-m", "dev.learning.mmdet_side"]
    done = subprocess.run(
        [*command, str(path.absolute())],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (folder / "log.txt").write_text(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{run.output}: {done.stdout.strip().splitlines()[-1:]}")
    results = read_json(str(folder / "results.json"), dict)
    return {name: results[name] for name in ("curve", "seconds_per_step", "threads")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="queryinst")
    parser.add_argument("--data", choices=NAMES, default="shapes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=0.001, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--evaluations", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--weights", default="", help="of another run; without, random ones")
    parser.add_argument("--label", default="", help="row of the table")
    parser.add_argument("--datasets", default="datasets", help="(default: %(default)s)")
    parser.add_argument("--output", default="output/learning", help="(default: %(default)s)")
    parser.add_argument("--peer", default=".venv-peer", help="(default: %(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="not for mmdet")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    run = Run(
        model=args.model,
        data=prepare(args.data, args.datasets),
        steps=args.steps,
        lr=args.lr,
        seed=args.seed,
        output="",
        batch=args.batch,
        evaluations=args.evaluations,
        weights=args.weights,
        opts=tuple(args.opts),
        label=args.label,
    )
    try:
        print(json.dumps(train(with_output(run, Path(args.output)), Path(args.peer).absolute())))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"train: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
