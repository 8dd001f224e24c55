#!/usr/bin/env python3
"""Make report.html and pictures of held-out images from the OUTPUT_DIR of a finished training."""

import argparse
import sys

from queryinst.data.registration import add_dataset_argument, register_from_args
from queryinst.report import make_report, report_text
from queryinst_cli.arguments import add_report_options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", required=True, help="OUTPUT_DIR of the training")
    add_report_options(parser)
    add_dataset_argument(parser)
    args = parser.parse_args()
    try:
        register_from_args(args.dataset)
        report = make_report(args.output_dir, args.num_images, args.confidence_threshold)
    except (OSError, ValueError) as error:
        print(f"make_report.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
