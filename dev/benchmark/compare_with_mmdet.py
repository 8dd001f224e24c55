"""Time and memory of this project and of MMDetection, side by side on equal weights and images.

usage: python -m dev.benchmark.compare_with_mmdet --peer VENV [--only GROUP ...] [--record]

The sides run in turn, each time in a process of its own with default threads; of each side the
least median counts, as machines slow down for minutes. Ends with status 1 where the outputs differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import our_runs
import torch
from parity_cases import FULL_SEED
from parity_inputs import trained_looking

from dev import ROOT
from dev.setup_peer import peer_versions
from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.model_zoo.conversion import build_on_meta

from . import comparison_report as report
from .common_inputs import MODELS, NUM_CLASSES
from .groups import GROUPS, MMDET, UNIQUE_QUERIES, Group, Side
from .measuring import Measurement
from .verdict import (
    HALF,
    SINGLE,
    TF32,
    Check,
    Limits,
    check_unique,
    compare_detections,
    compare_losses,
    unique_queries,
)

WORKER = "dev.benchmark.worker"
# Steps of a process: those before, those that are timed.
STEPS = {"inference": (1, 4), "training": (1, 2)}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="environment with MMDetection")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--repeats", type=int, default=0, help="timed steps of each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="half precision on both sides")
    parser.add_argument("--tf32", action="store_true", help="on a GPU; not in fp32")
    parser.add_argument("--batch", type=int, default=0, help="images (default: 1, in training 2)")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks/")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    start = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            outcomes.append(run_group(name, GROUPS[name], args, Path(folder)))
            print("\n".join(["", *report.outcome_lines(outcomes[-1], args.device)]), flush=True)
    minutes = (time.monotonic() - start) / 60
    record = report.Record(
        outcomes, args.device, args.amp, minutes, peer_versions(args.peer), args.tf32
    )
    print("\n".join(["", *report.summary_lines(record)]))
    if args.record:
        for path in report.write(record, ROOT / "docs" / "benchmarks"):
            print(f"written: {path}")
    return 0 if all(check.is_met for outcome in outcomes for check in outcome.checks) else 1


def run_group(name: str, group: Group, args: argparse.Namespace, folder: Path) -> report.Outcome:
    """All sides in turn, `args.rounds` times."""
    weights = write_weights(group.queries, folder)
    turns: dict[str, list[Measurement]] = {side.name: [] for side in group.sides}
    outputs, threads = {}, 0
    for turn in range(args.rounds):
        for side in group.sides:
            print(f"{name}, turn {turn + 1}: {side.name}", file=sys.stderr, flush=True)
            result = run_side(side, group, args, weights, folder)
            turns[side.name].append(Measurement(**result["measurement"]))
            outputs[side], threads = result["outputs"], result["threads"]
    limits = HALF if args.amp else TF32 if args.tf32 else SINGLE
    checks, notes = compare_outputs(group, outputs, limits)
    return report.Outcome(name, group, turns, checks, notes, threads)


def write_weights(queries: int, folder: Path) -> Path:
    """The seeded, trained-looking ones in MMDetection's names, once for all processes."""
    path = folder / f"weights-{queries}.pt"
    if not path.exists():
        model = build_on_meta(our_runs.zoo_cfg(MODELS[queries]))
        state = to_mmdet_state_dict(model.state_dict())
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        values = trained_looking(shapes, FULL_SEED)
        torch.save({name: torch.from_numpy(value.copy()) for name, value in values.items()}, path)
    return path


def run_side(
    side: Side, group: Group, args: argparse.Namespace, weights: Path, folder: Path
) -> dict:
    warmup, repeats = STEPS[group.task]
    run = {
        "side": side.side,
        "task": group.task,
        "queries": group.queries,
        "opts": [*side.opts, *(_amp_opts(group.task, args.device) if args.amp else ())],
        "weights": str(weights),
        "device": args.device,
        "amp": args.amp,
        "tf32": args.tf32,
        "batch": args.batch,
        "warmup": warmup,
        "repeats": args.repeats or repeats,
    }
    is_peer = side.side == "mmdet"
    python = args.peer / "bin" / "python" if is_peer else sys.executable
    out = folder / "result.pt"
    paths = [ROOT] if is_peer else [ROOT, ROOT / "projects" / "QueryInst"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [str(python), "-W", "ignore", "-m", WORKER, json.dumps(run), str(out)]
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    result = torch.load(out, weights_only=True)
    out.unlink()
    return result


def _amp_opts(task: str, device: str) -> tuple:
    """MMDetection's autocast is fp16 on a GPU, bfloat16 on the CPU."""
    precision = "fp16" if device.startswith("cuda") else "bf16"
    if task == "inference":
        return ("TEST.PRECISION", precision)
    return ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", precision)


def compare_outputs(
    group: Group, outputs: dict[Side, Any], limits: Limits
) -> tuple[list[Check], list[str]]:
    """Each of this project's sides with MMDetection's; and notes on what the sides computed."""
    checks, notes = [], []
    compare = compare_detections if group.task == "inference" else compare_losses
    for side, output in outputs.items():
        if side.side == "maskrcnn":
            notes.append(f"{side.name}: {output}")
        if side.side != "queryinst":
            continue
        side_checks = compare(output, outputs[MMDET], limits)
        if group.task == "inference":
            numbers = unique_queries(output, NUM_CLASSES)
            notes.append(f"{side.name}: unique kept queries {', '.join(map(str, numbers))}")
            if group.queries == 100:
                side_checks.append(check_unique(numbers, UNIQUE_QUERIES))
        checks += [check._replace(name=f"{side.name}: {check.name}") for check in side_checks]
    return checks, notes


if __name__ == "__main__":
    sys.exit(main())
