"""`queryinst data split`."""

import argparse

from tqdm import tqdm

from queryinst.own_data.contents import load_content
from queryinst.own_data.folders import check_target
from queryinst.own_data.sources import read_data
from queryinst.own_data.splitting import split_content
from queryinst.own_data.writing import sources_of, write_content

from .data_output import conclude

_DIGITS = 9  # of shares; 1 - 0.7 - 0.3 is more than 0


def run(args: argparse.Namespace) -> int:
    """Split the images anew, write them in COCO's format, and print what is in each part.

    Raises:
        ValueError: nothing is held out, or all is. One line.
    """
    train = round(1 - args.val - args.test, _DIGITS)
    if train <= 0 or train == 1:
        raise ValueError(
            f"--val {args.val:g} and --test {args.test:g} leave {max(train, 0):.0%} of the images"
            " to train on; their sum must be more than 0 and less than 1"
        )
    splits = read_data(args.data)
    check_target(args.target, sources_of(splits), overwrite=args.overwrite)
    content = load_content(splits, is_test_annotated=True)  # else trained on as background
    shares = {"train": train, "val": args.val, "test": args.test}
    with tqdm(total=len(content.photos), unit="image", disable=None, leave=False) as bar:
        content = split_content(content, shares, args.seed, bar.update)
    return conclude(args, content, write_content(content, args.target, "coco", link=args.link))
