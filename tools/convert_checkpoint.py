#!/usr/bin/env python3
"""Convert a checkpoint between layouts and file types, and print what it holds."""

import argparse
import sys

from queryinst.engine.errors import describe_error
from queryinst_cli.arguments import add_convert_options
from queryinst_cli.convert import run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convert_checkpoint.py", description=__doc__)
    parser.add_argument(
        "source",
        metavar="IN",
        help="path or URL: this project's, MMDetection's or the authors' checkpoint, or a ResNet",
    )
    parser.add_argument("target", metavar="OUT", help="file to write: .pth or .safetensors")
    add_convert_options(parser)
    return parser


def main() -> int:
    args = build_parser().parse_args()
    try:
        return run(args)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        print(f"convert_checkpoint.py: error: {describe_error(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
