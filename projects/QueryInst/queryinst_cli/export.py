"""`queryinst export`."""

import argparse

from queryinst.export import UnverifiedError, export
from queryinst.predict.inputs import find_sources


def run(args: argparse.Namespace) -> int:
    """Write the file, and print how far it is from the model; 1 if that is too far."""
    images = [source.name for source in find_sources(args.check or ())]
    options = {"size": args.size, "precision": args.precision, "check": images}
    try:
        report = export(args.model, args.output, format=args.format, **options)
    except UnverifiedError as error:
        print(error.report.table())
        raise
    print(report.table())
    print(f"wrote {report.path}")
    return 0
