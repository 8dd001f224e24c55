#!/usr/bin/env python3
"""How time and memory grow with queries, image size, batch size, instances and classes.

Writes a page with a table and a plot for each. About a quarter of an hour on two cores.
"""

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path

from queryinst.benchmark.growth import AXES, measure_growth
from queryinst.benchmark.growth_report import describe, write_growth
from queryinst.engine import setup_cfg
from queryinst.engine.errors import describe_error

DEFAULT_CONFIG = "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("--output-dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument(
        "--only", nargs="+", choices=[axis.slug for axis in AXES], metavar="AXIS-TASK"
    )
    parser.add_argument(
        "--limit", type=int, metavar="VALUE", help="leave out what is beyond: a quick look"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    axes = [axis for axis in AXES if not args.only or axis.slug in args.only]
    if args.limit:
        few = [tuple(v for v in axis.values if v <= args.limit) for axis in axes]
        axes = [dataclasses.replace(axis, values=v) for axis, v in zip(axes, few) if v]
    stem = f"{datetime.date.today()}-growth"
    try:
        cfg = setup_cfg(args.config_file, args.opts, weights="")
        growths = []
        for growth in measure_growth(cfg, tuple(axes), notify):
            growths.append(growth)
            print("\n".join(["", f"{growth.axis.name}, {growth.axis.task}", *describe(growth)]))
        for path in write_growth(growths, args.output_dir, stem):
            print(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"cost_growth.py: error: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


def notify(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
