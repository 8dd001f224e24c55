"""`queryinst data convert`."""

import argparse

from queryinst.own_data.contents import load_content
from queryinst.own_data.folders import check_target
from queryinst.own_data.sources import read_data
from queryinst.own_data.writing import sources_of, write_content

from .data_output import conclude


def run(args: argparse.Namespace) -> int:
    """Write the data in another format, and print what is in it."""
    splits = read_data(args.source)
    check_target(args.target, sources_of(splits), overwrite=args.overwrite)
    content = load_content(splits)
    return conclude(args, content, write_content(content, args.target, args.to, link=args.link))
