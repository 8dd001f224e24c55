"""Time, memory and share by part of inference and training steps of any configuration.

Inputs are random and the same in every run. A detector with its initial weights finds as many
objects as a trained one, since nothing is below a threshold of zero.
"""

import argparse
import json
import sys
from pathlib import Path

from queryinst.engine import setup_cfg
from queryinst.engine.errors import describe_error
from queryinst.environment import as_line, describe_hardware, describe_versions
from queryinst.speedups import resolve, speed_up_process

from .case import TASKS, Case, run_case
from .speedups import measure_speedups
from .text import describe_result


def read_size(text: str) -> tuple[int, int]:
    """HxW."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 800x1199")
    return int(height), int(width)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", metavar="FILE", help="path or zoo name")
    parser.add_argument(
        "--speedups",
        nargs="*",
        metavar="NAME",
        help="print what each speed-up, or each of these, saves here, instead of one configuration",
    )
    parser.add_argument("--task", choices=(*TASKS, "both"), default="both")
    parser.add_argument("--batch", type=int, default=0, help="images (default: 1, in training 2)")
    parser.add_argument(
        "--size",
        type=read_size,
        metavar="HxW",
        help="what the network sees (default: 800x1199, in training 512x672)",
    )
    parser.add_argument(
        "--output-size",
        type=read_size,
        default=Case.output_size,
        metavar="HxW",
        help="picture that masks are pasted into (default: 427x640)",
    )
    parser.add_argument(
        "--instances",
        type=int,
        default=Case.instances,
        help="objects of each image in training (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", default="", help="path or URL (default: the initial, random ones)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it here as well")
    _add_steps(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def _add_steps(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("warmup", "before"),
        ("repeats", "that are timed"),
        ("parts", "that are timed by part; 0: none"),
    ):
        default = getattr(Case, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"steps {what}")


def case_of(args: argparse.Namespace, task: str) -> Case:
    """What the arguments ask for, for one of `TASKS`."""
    return Case(
        task,
        batch=args.batch,
        size=args.size,
        output_size=args.output_size,
        instances=args.instances,
        warmup=args.warmup,
        repeats=args.repeats,
        parts=args.parts,
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    results = []
    try:
        if args.speedups is not None:
            resolve(args.speedups)
            print(as_line(describe_hardware() | describe_versions()), flush=True)
            print("\n".join(measure_speedups("cpu", args.repeats, args.speedups)))
            return 0
        if not args.config_file:
            raise ValueError("--config-file or --speedups must be given")
        cfg = setup_cfg(args.config_file, args.opts, weights=args.weights)
        for task in TASKS if args.task == "both" else (args.task,):
            if task == "training":
                speed_up_process(cfg)
            results.append(run_case(cfg, case_of(args, task)))
            print("\n".join(describe_result(results[-1])), flush=True)
        if args.json:
            args.json.write_text(json.dumps([result.to_dict() for result in results], indent=1))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"benchmark.py: error: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0
