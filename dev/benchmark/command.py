"""Time and memory of inference and training steps of any configuration.

Inputs are random and the same in every run. Some detections of random weights lie outside of the
image and are dropped; the line "output" says how many are left.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch.profiler import ProfilerActivity, profile

from queryinst.devices import resolve_device
from queryinst.engine import setup_cfg
from queryinst.engine.errors import describe_error
from queryinst.environment import as_line, describe_hardware, describe_versions
from queryinst.speedups import resolve, speed_up_process

from .common_inputs import BATCHES, OUTPUT_SIZE, SIZES
from .measuring import gigabytes, measure, quietness
from .speedups import measure_speedups
from .subjects import build_subject

TASKS = tuple(SIZES)


def read_size(text: str) -> tuple[int, int]:
    """HxW."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 800x1199")
    return int(height), int(width)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="path or zoo name")
    add(
        "--speedups",
        nargs="*",
        metavar="NAME",
        help="print what each speed-up, or each of these, saves here, instead of one configuration",
    )
    add("--task", choices=(*TASKS, "both"), default="both", help="steps of what")
    add("--batch", type=int, help="images; if not given 1, in training 2")
    sizes = "what the network sees; if not given 800x1199, in training 512x672"
    add("--size", type=read_size, metavar="HxW", help=sizes)
    pasted = "picture that masks are pasted into"
    add("--output-size", type=read_size, default=OUTPUT_SIZE, metavar="HxW", help=pasted)
    add("--instances", type=int, default=7, help="objects of each image in training")
    add("--weights", default="", help="path or URL; if not given the initial, random ones")
    add("--warmup", type=int, default=1, help="steps before")
    add("--repeats", type=int, default=5, help="steps that are timed")
    add("--profile", type=int, default=0, metavar="N", help="print the N costliest operators")
    add("--json", type=Path, metavar="FILE", help="write all of it here as well")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the configuration")
    return parser


def run_case(cfg: CfgNode, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one of `TASKS` and print the result.

    Args:
        cfg: any of this project's; MODEL.WEIGHTS "" for the model's initial weights.

    Returns:
        What --json writes; seconds and bytes.

    Raises:
        ValueError: impossible values.
    """
    batch = BATCHES[task] if args.batch is None else args.batch
    size = args.size or SIZES[task]
    if batch < 1 or args.instances < 0:
        raise ValueError(f"--batch {batch} must be >= 1, --instances {args.instances} >= 0")
    cfg = cfg.clone()
    cfg.defrost()
    device = cfg.MODEL.DEVICE = resolve_device(cfg, training=False)
    subject = build_subject(
        cfg,
        task,
        num_images=batch,
        size=size,
        output_size=args.output_size,
        num_instances=args.instances,
    )
    measurement, last = measure(
        subject.run, device=device, warmup=args.warmup, repeats=args.repeats
    )
    result = {
        "task": task,
        "batch": batch,
        "size": size,
        "output_size": args.output_size,
        "instances": args.instances,
        "measurement": asdict(measurement),
        "images_per_second": batch / measurement.median,
        "model": _describe_model(cfg),
        "output": _describe_output(task, last),
        "hardware": describe_hardware(device),
        "versions": describe_versions(),
    }
    print("\n".join(result_lines(result)), flush=True)
    if args.profile:
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * device.startswith("cuda")]
        with profile(activities=activities) as profiler:
            subject.run()
        order = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=args.profile))
    return result


def _describe_model(cfg: CfgNode) -> dict[str, Any]:
    return {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "queries": cfg.MODEL.QUERYINST.NUM_QUERIES,
        "classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        "device": cfg.MODEL.DEVICE,
        "weights": cfg.MODEL.WEIGHTS or "random",
        "amp": cfg.SOLVER.AMP.ENABLED,
    }


def _describe_output(task: str, last: Any) -> dict[str, float]:
    """Enough to see that something sensible was computed."""
    if task == "training":
        return {"total_loss": sum(last.values())}
    instances = [output["instances"] for output in last]
    unique = sum(len(set(image.query_idx.tolist())) for image in instances)
    return {"detections": sum(map(len, instances)), "unique_queries": unique}


def result_lines(result: dict[str, Any]) -> list[str]:
    """One result for the terminal."""
    measured = result["measurement"]
    seconds = measured["seconds"]
    is_training = result["task"] == "training"
    what = (
        f"{result['instances']} objects each"
        if is_training
        else f"masks in {'x'.join(map(str, result['output_size']))}"
    )
    return [
        f"{result['task']}: {result['batch']} x {'x'.join(map(str, result['size']))}, {what}",
        f"  time    {measured['median']:.3f} s (median of {len(seconds)}, {min(seconds):.3f} to"
        f" {max(seconds):.3f}), {result['images_per_second']:.2f} images/s",
        f"  memory  {gigabytes(measured['peak_bytes'])} at the peak,"
        f" {gigabytes(measured['resident_bytes'])} before the step",
        f"  load    {measured['own_cores']:.2f} cores; {quietness(measured['others_share'])}",
        *(f"  {name:8}{as_line(result[name])}" for name in ("model", "output")),
        *(
            f"  {name:8}{as_line(result[key])}"
            for name, key in (("with", "versions"), ("on", "hardware"))
        ),
    ]


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    results = []
    try:
        if args.speedups is not None:
            resolve(args.speedups)
            print(as_line(describe_hardware() | describe_versions()), flush=True)
            print("\n".join(measure_speedups(args.task, args.repeats, args.speedups)))
            return 0
        if not args.config_file:
            raise ValueError("--config-file or --speedups must be given")
        cfg = setup_cfg(args.config_file, args.opts, weights=args.weights)
        for task in TASKS if args.task == "both" else (args.task,):
            if task == "training":
                speed_up_process(cfg)
            results.append(run_case(cfg, task, args))
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"benchmark.py: error: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0
