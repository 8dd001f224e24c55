#!/usr/bin/env python3
"""Make report.html and pictures of held-out images from the OUTPUT_DIR of a finished training."""

import argparse
import os
import sys
from collections.abc import Mapping

from queryinst.data.registration import add_dataset_argument, register_from_args
from queryinst.report import Report, make_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", required=True, help="OUTPUT_DIR of the training")
    parser.add_argument(
        "--num-images", type=int, default=24, help="pictures to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        help="least score of what is drawn and counted (default: where the data set's F1 is best)",
    )
    add_dataset_argument(parser)
    args = parser.parse_args()
    try:
        register_from_args(args.dataset)
        report = make_report(args.output_dir, args.num_images, args.confidence_threshold)
    except (OSError, ValueError) as error:
        print(f"make_report.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print_report(report)
    return 0


def print_report(report: Report) -> None:
    tasks = {"mask": report.results.get("segm", {}), "box": report.results.get("bbox", {})}
    print(f"{report.dataset_name}:")
    for name, metrics in tasks.items():
        if metrics:
            figures = "  ".join(
                f"{key} {_number(metrics.get(key))}" for key in ("AP", "AP50", "AP75")
            )
            print(f"  {name + ':':6}{figures}{_classes(metrics)}")
    counts = report.counts
    print(
        f"  found: {counts.num_matched} of {counts.num_objects} objects at IoU 0.5 and score >="
        f" {counts.min_score:g}; {counts.num_extra} more predicted"
    )
    print(f"  (so demo.py --confidence-threshold {counts.min_score:g} suits this model)")
    print(f"pictures: {len(report.picture_paths)} in {os.path.dirname(report.picture_paths[0])}")
    print(f"report: {report.page_path}")


def _classes(metrics: Mapping[str, float | None]) -> str:
    classes = [f"{k[3:]} {_number(v)}" for k, v in metrics.items() if k.startswith("AP-")]
    return f"  ({', '.join(classes)})" if classes else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
