#!/usr/bin/env python3
"""Convert a checkpoint between layouts and file types, and print what it holds."""

import argparse
import sys

from queryinst.convert import Conversion, convert_checkpoint
from queryinst.convert.convert_checkpoint import LAYOUTS
from queryinst.engine.errors import describe_error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convert_checkpoint.py", description=__doc__)
    parser.add_argument(
        "source",
        metavar="IN",
        help="path or URL: this project's, MMDetection's or the authors' checkpoint, or a ResNet",
    )
    parser.add_argument("target", metavar="OUT", help="file to write: .pth or .safetensors")
    parser.add_argument(
        "--inference-only",
        action="store_true",
        help="leave out the mask heads that only training runs: for evaluation and prediction",
    )
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="whose names OUT has (default: %(default)s)",
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="the model's configuration, which IN must match (default: the one in IN, or that of"
        " the published model that IN is)",
    )
    parser.add_argument(
        "--ema",
        action="store_true",
        help="of a file of MMDetection with two sets of weights, as EMAHook leaves them, take the"
        " second: the keys 'ema_...', or 'ema_state_dict'",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load a file that holds more than tensors, which executes what it holds: only if you"
        " trust its author",
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()
    try:
        conversion = convert_checkpoint(
            args.source,
            args.target,
            inference_only=args.inference_only,
            allow_pickle=args.allow_pickle,
            to=args.to,
            config_file=args.config_file,
            ema=args.ema,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        print(f"convert_checkpoint.py: error: {describe_error(error)}", file=sys.stderr)
        return 1
    print_conversion(args.source, args.target, conversion)
    return 0


def print_conversion(source: str, target: str, conversion: Conversion) -> None:
    print(f"{source}: {conversion.layout}")
    print(f"  sha256 {conversion.source_digest}")
    for line in (conversion.coverage, *conversion.notes):
        print(f"  {line}")
    print(f"{target}:")
    print(f"  sha256 {conversion.target_digest}")
    print()
    print(f"{'part':20} {'tensors':>8} {'parameters':>12}  dtypes")
    for group in conversion.groups:
        dtypes = ", ".join(group.dtypes)
        print(f"{group.name:20} {group.num_tensors:8} {group.num_parameters:12,}  {dtypes}")
    print()
    for kind in conversion.kinds:
        print(f"{kind.num_tensors:4} x {kind.name} {kind.shape} {kind.dtype}")


if __name__ == "__main__":
    sys.exit(main())
