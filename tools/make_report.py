#!/usr/bin/env python3
"""Make report.html and pictures of held-out images from the OUTPUT_DIR of a finished training."""

import argparse
import sys

from queryinst.data.registration import add_dataset_argument
from queryinst_cli.arguments import add_report_options
from queryinst_cli.report import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output-dir",
        dest="run",
        required=True,
        metavar="OUTPUT_DIR",
        help="OUTPUT_DIR of the training",
    )
    add_report_options(parser)
    add_dataset_argument(parser)
    args = parser.parse_args()
    try:
        return run(args)
    except (OSError, ValueError) as error:
        print(f"make_report.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
