"""`queryinst report`."""

import argparse

from queryinst.data.registration import register_from_args
from queryinst.report import make_report, report_text


def run(args: argparse.Namespace) -> int:
    """As tools/make_report.py."""
    register_from_args(args.dataset)
    print(report_text(make_report(args.run, args.num_images, args.confidence_threshold)))
    return 0
