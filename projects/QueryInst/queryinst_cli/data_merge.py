"""`queryinst data merge`."""

import argparse

from queryinst.own_data.contents import load_content
from queryinst.own_data.folders import check_target
from queryinst.own_data.merging import merge_contents
from queryinst.own_data.sources import read_data
from queryinst.own_data.writing import sources_of, write_content

from .data_output import conclude


def run(args: argparse.Namespace) -> int:
    """Write one data set of several in COCO's format, and print what is in it.

    Raises:
        ValueError: there is one data set alone. One line.
    """
    if len(args.data) < 2:
        raise ValueError("one data set alone needs no merging: queryinst data merge DATA DATA DST")
    sets = [read_data(data) for data in args.data]
    sources = [source for splits in sets for source in sources_of(splits)]
    check_target(args.target, sources, overwrite=args.overwrite)
    content = merge_contents([load_content(splits) for splits in sets])
    return conclude(args, content, write_content(content, args.target, "coco", link=args.link))
