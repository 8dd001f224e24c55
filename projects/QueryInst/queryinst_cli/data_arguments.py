"""The jobs of `queryinst data`, and their arguments. Standard library alone."""

import argparse

from . import values
from .jobs import Job, add_nothing, add_opts, add_output, add_overwrite

DATA = "a folder in COCO's, YOLO's or LabelMe's format or with label images, or JSON:IMAGE_FOLDER"
FORMATS = ("coco", "yolo")  # that queryinst.own_data.writing has


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--html", metavar="OUT", help="write a page with tables and pictures")
    parser.add_argument("--json", metavar="OUT", help="write all problems and statistics as JSON")
    parser.add_argument(
        "--fix",
        metavar="OUT",
        help="write a copy of the annotations in which is mended what needs no guess: a *.json, or"
        " a folder where DATA has several",
    )
    parser.add_argument(
        "--fast", action="store_true", help="look at the images' headers, not at their pixels"
    )
    parser.add_argument(
        "--workers",
        type=values.count,
        metavar="N",
        help="processes that read images (default: one for each CPU core)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    add_overwrite(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=DATA)
    _add_target(parser)
    parser.add_argument(
        "--to", choices=FORMATS, required=True, help="COCO's JSON, or YOLO's polygons (no holes)"
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=f"{DATA}; all its images are split anew")
    _add_target(parser)
    parser.add_argument(
        "--val",
        type=values.fraction,
        default=0.2,
        metavar="P",
        help="part of the images that is held out (default: %(default)s)",
    )
    parser.add_argument(
        "--test",
        type=values.fraction,
        default=0.0,
        metavar="P",
        help="part that is held out from choosing settings as well (default: %(default)s)",
    )
    _add_seed(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=DATA)
    add_output(parser, "output/show", "pictures ")
    parser.add_argument(
        "--num-images",
        type=values.count,
        default=24,
        metavar="N",
        help="of each part, drawn from all by chance (default: %(default)s)",
    )
    parser.add_argument(
        "--augmented",
        action="store_true",
        help="draw each as the augmentation hands it to the model as well",
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="whose INPUT says how to augment (default: that of the published models)",
    )
    _add_seed(parser)
    add_overwrite(parser)
    add_opts(parser, "the configuration's")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", metavar="DATA", help=DATA)
    _add_target(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="DST", help="the folder to write")
    parser.add_argument(
        "--link", action="store_true", help="link to the images instead of copying them"
    )
    add_overwrite(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=values.seed, default=0, metavar="N", help="of chance (default: %(default)s)"
    )


DATA_JOBS = {
    "check": Job(
        "list all problems of a data set, and its statistics",
        "queryinst data check datasets/shapes --html check.html",
        _add_check,
    ),
    "convert": Job(
        "write a data set in another format",
        "queryinst data convert datasets/shapes shapes_yolo --to yolo",
        _add_convert,
    ),
    "split": Job(
        "divide the images into those to train on and those held out",
        "queryinst data split photos photos_split --val 0.2",
        _add_split,
    ),
    "show": Job(
        "draw the annotated objects on images",
        "queryinst data show datasets/shapes --augmented",
        _add_show,
    ),
    "merge": Job(
        "make one data set of several, with categories united by name",
        "queryinst data merge first second both",
        _add_merge,
    ),
}

DATA_JOB = Job(
    "check, convert, split, show or merge annotated images",
    "queryinst data check datasets/shapes",
    add_nothing,
    DATA_JOBS,
)
