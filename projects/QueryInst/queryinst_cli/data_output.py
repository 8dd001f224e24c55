"""What the jobs of `queryinst data` print of a data set that they wrote."""

import argparse
import sys
from collections.abc import Sequence

from queryinst.own_data.contents import Content, count_objects


def conclude(args: argparse.Namespace, content: Content, warnings: Sequence[str]) -> int:
    """A table of the objects of each class in each part, and warnings; the exit status."""
    parts = content.parts.values()
    rows = [["", *content.parts], ["images", *(str(len(photos)) for photos in parts)]]
    counts = [count_objects(photos, len(content.classes)) for photos in parts]
    rows.append(["objects", *(str(sum(column)) for column in counts)])
    for name, *row in zip(content.classes, *counts):
        rows.append([f"  {name}", *map(str, row)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *row in rows:
        cells = [first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(row, widths[1:]))]
        print("  ".join(cells).rstrip())
    print(f"wrote {args.target}")
    for warning in warnings:
        print(f"queryinst data {args.job}: warning: {warning}", file=sys.stderr)
    return 0
