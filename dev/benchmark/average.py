"""What the average of the weights (SOLVER.EMA) adds to a training step.

usage: python -W ignore -m dev.benchmark.average [--config-file FILE ...] [--repeats 20]
           [KEY VALUE ...]

For each configuration two trainers on the same random batch take turns, one with the average and
one without: the median seconds of their steps, and their ratio.
"""

import argparse
import statistics
import sys

from detectron2.config import CfgNode

from queryinst.devices import resolve_device
from queryinst.engine import setup_cfg
from queryinst.engine.errors import describe_error
from queryinst.environment import as_line, describe_hardware, describe_versions

from .common_inputs import BATCHES, OUTPUT_SIZE, SIZES
from .measuring import LoadMeter, quietness, times_in_turn
from .speedups import COCO, SHAPES
from .subjects import Subject, build_subject

# Configuration file -> images a step, and what the network sees of each.
CONFIGS = {
    f"{COCO}/queryinst_R_50_FPN_1x.yaml": (BATCHES["training"], SIZES["training"]),
    f"{SHAPES}/queryinst_R_18_FPN.yaml": (4, (128, 128)),
}


def build(cfg: CfgNode, name: str, averages: bool) -> Subject:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.EMA.ENABLED = averages
    num_images, size = CONFIGS[name]
    return build_subject(
        cfg, "training", num_images=num_images, size=size, output_size=OUTPUT_SIZE, num_instances=7
    )


def row(name: str, opts: list[str], repeats: int) -> str:
    """A row of the table."""
    cfg = setup_cfg(name, opts, weights="").clone()
    cfg.defrost()
    device = cfg.MODEL.DEVICE = resolve_device(cfg, training=True)
    meter = LoadMeter()
    subjects = build(cfg, name, False), build(cfg, name, True)
    times = times_in_turn([subject.run for subject in subjects], device, repeats)
    without, with_it = map(statistics.median, times)
    size = sum(x.nbytes for x in subjects[0].model.state_dict().values())
    print(f"{name}: {quietness(meter.read()[1])}", flush=True)
    cells = [name, f"{without:.4f} s", f"{with_it:.4f} s", f"{with_it / without:.3f}"]
    return f"| {' | '.join([*cells, f'{size / 1e6:.0f} MB'])} |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config-file", nargs="+", choices=CONFIGS, default=[*CONFIGS], help="(default: all)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(argv)
    try:
        device = dict(zip(args.opts[::2], args.opts[1::2])).get("MODEL.DEVICE", "cpu")
        print(as_line(describe_hardware(device) | describe_versions()), flush=True)
        rows = [row(name, args.opts, args.repeats) for name in args.config_file]
    except (OSError, ValueError, KeyError, RuntimeError, FloatingPointError) as error:
        print(f"average: error: {describe_error(error)}", file=sys.stderr)
        return 1
    print("| configuration | without | with the average | ratio | its weights |")
    print("| --- | ---: | ---: | ---: | ---: |", *rows, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
