"""Compare full-size models with MMDetection's, run side by side on equal weights and images.

usage: python -m dev.parity.compare --peer VENV [--record FILE] [--only CASE ...]
                                    [--speedups {auto,none} ...]

MMDetection runs once; this project's model runs with the speed-ups of this processor, then without
any. Prints for each quantity the largest difference in float32, beside it how far MMDetection in
float32 is from itself in float64, and the difference of the two sides in float64. Ends with status
1 where a verdict is not "equal".
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import our_runs
import torch
from comparison import compare, in_our_names
from detectron2.config import CfgNode
from parity_cases import FULL_SEED, Batch, full_batch, steps_batches
from parity_inputs import trained_looking

from dev import PARITY
from queryinst.checkpoint import convert_mmdet_state_dict
from queryinst.model_zoo.conversion import build_on_meta
from queryinst.solver import build_optimizer

from . import report

DTYPES = (torch.float32, torch.float64)
# Runs of a model by the zoo's name, smallest first.
RUNS = {
    "queryinst_R_50_FPN_1x": "predict+train",
    "queryinst_R_50_FPN_3x_300q": "predict+train",
    "queryinst_R_101_FPN_3x": "predict",
}
STEPS_MODEL = "queryinst_R_50_FPN_1x"
CASES = ("parameters", *RUNS, "steps")
SPEEDUPS = {"auto": ("auto",), "none": ()}  # MODEL.QUERYINST.SPEEDUPS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="environment with MMDetection")
    parser.add_argument("--record", type=Path, help="markdown file to write")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, help="these cases alone")
    parser.add_argument("--speedups", nargs="+", choices=SPEEDUPS, default=list(SPEEDUPS))
    args = parser.parse_args()
    start = time.monotonic()
    sections: list[report.Section] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in args.only:
            begun = time.monotonic()
            theirs = _run_reference(case, Reference(args.peer, Path(folder)))
            for name in args.speedups:
                gc.collect()
                sections.append(_compare_case(case, theirs, SPEEDUPS[name]))
                print(report.render(sections[-1]), flush=True)
            del theirs
            print(f"{time.monotonic() - begun:.0f} s", flush=True)
    minutes = (time.monotonic() - start) / 60
    is_equal = all(section.is_equal for section in sections)
    print(f"{'equal' if is_equal else 'NOT EQUAL'}, after {minutes:.1f} minutes")
    if args.record:
        report.record(args.record, sections, args.peer, minutes)
        print(f"written: {args.record}")
    return 0 if is_equal else 1


class Reference:
    """MMDetection's results, computed in a process of the peer environment."""

    def __init__(self, peer: Path, folder: Path):
        self.python, self.folder = peer / "bin" / "python", folder

    def __call__(self, *case: str):
        """Run tests/parity/run_reference.py; what it saved is mapped from the disk."""
        out = self.folder / "reference.pt"
        command = [self.python, "-W", "ignore", PARITY / "run_reference.py", case[0], out]
        subprocess.run([*command, *case[1:]], check=True)
        result = torch.load(out, mmap=True, weights_only=True)
        out.unlink()  # its pages stay until the last tensor is gone
        return result


def _run_reference(case: str, reference: Reference) -> dict:
    if case == "parameters":
        return reference("parameters")
    return reference("steps", STEPS_MODEL) if case == "steps" else reference(RUNS[case], case)


def _compare_case(case: str, theirs: dict, speedups: tuple[str, ...]) -> report.Section:
    if case == "parameters":
        return compare_parameters(theirs, speedups)
    if case == "steps":
        return compare_steps(theirs, speedups)
    return compare_runs(case, RUNS[case].split("+"), theirs, speedups)


def _cfg(name: str, speedups: tuple[str, ...]) -> CfgNode:
    cfg = our_runs.zoo_cfg(name)
    cfg.MODEL.QUERYINST.SPEEDUPS = speedups
    return cfg


def compare_parameters(theirs: dict[str, dict], speedups: tuple[str, ...]) -> report.Section:
    """Names, shapes and what is trained, of the models as their configurations build them."""
    rows = []
    for name, model in theirs.items():
        ours = build_on_meta(_cfg(name, speedups))
        converted = convert_mmdet_state_dict(
            {key: torch.empty(shape, device="meta") for key, shape in model["shapes"].items()}
        )
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        trained = {key for key, value in ours.named_parameters() if value.requires_grad}
        their_trained = convert_mmdet_state_dict({key: torch.empty(0) for key in model["trained"]})
        rows.append(
            report.ParameterRow(
                name,
                parameters=sum(value.numel() for value in ours.parameters()),
                tensors=len(shapes),
                differing_shapes=len(
                    {(k, tuple(v.shape)) for k, v in converted.items()}
                    ^ {(k, tuple(shape)) for k, shape in shapes.items()}
                ),
                trained=len(trained),
                differing_trained=len(trained ^ their_trained.keys()),
            )
        )
    return report.ParameterSection(rows, speedups)


def compare_runs(
    name: str, kinds: list[str], theirs: dict, speedups: tuple[str, ...]
) -> report.Section:
    """Every quantity of a model's runs on a batch of two images."""
    state = trained_looking(theirs["shapes"], FULL_SEED)
    model = our_runs.build(_cfg(name, speedups), state, DTYPES[0])
    batch = full_batch(model.cascade.stages[0].cls_logits.out_features)
    section = report.RunSection(name, speedups)
    for kind in kinds:
        differences = {}
        for dtype in DTYPES:
            our_runs.set_weights(model, state, dtype)
            record = _run(kind, model, batch, dtype)
            reference = in_our_names(theirs[kind]["records"][str(dtype)], convert_mmdet_state_dict)
            differences[dtype] = compare(record, reference, by_stage=True)
        section.add(kind, differences[DTYPES[0]], theirs[kind]["noise"], differences[DTYPES[1]])
        model.zero_grad()
    return section


def _run(kind: str, model: torch.nn.Module, batch: Batch, dtype: torch.dtype) -> our_runs.Record:
    if kind == "predict":
        return our_runs.prediction_run(model, batch.images, batch.output_sizes)
    return our_runs.training_run(model, batch.images, batch.objects, dtype)


def compare_steps(theirs: dict, speedups: tuple[str, ...]) -> report.Section:
    """Losses of optimizer steps from equal weights on the same batches."""
    cfg = _cfg(STEPS_MODEL, speedups)
    state = trained_looking(theirs["shapes"], FULL_SEED)
    model = our_runs.build(cfg, state, DTYPES[0])
    losses = {}
    for dtype in DTYPES:
        our_runs.set_weights(model, state, dtype)
        losses[dtype] = _take_steps(cfg, model, dtype)
        model.zero_grad()
    section = report.StepsSection(STEPS_MODEL, speedups)
    single, double = (theirs["losses"][str(dtype)] for dtype in DTYPES)
    for *step, nudged in zip(
        losses[DTYPES[0]], single, losses[DTYPES[1]], double, zip(*theirs["nudged"])
    ):
        section.add(*step, nudged)
    return section


def _take_steps(cfg: CfgNode, model: torch.nn.Module, dtype: torch.dtype) -> list[dict]:
    optimizer = build_optimizer(cfg, model)
    losses = []
    for batch in steps_batches(cfg.MODEL.ROI_HEADS.NUM_CLASSES):
        record = our_runs.training_run(model, batch.images, batch.objects, dtype)
        optimizer.step()
        losses.append({key: value for key, value in record.items() if key.startswith("loss/")})
    return losses


if __name__ == "__main__":
    sys.exit(main())
