"""The arguments of `queryinst train`. Standard library alone."""

import argparse

from . import values
from .data_arguments import DATA
from .jobs import Job, add_device, add_opts, add_output


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument(
        "--val",
        metavar="DATA",
        help="images to evaluate on (default: DATA's own part for validation, else a fifth of its"
        " images, which are then not trained on)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME|FILE|none",
        help="weights to start from: a name of the model zoo, or a checkpoint; none for a small"
        " model with random weights (default: R_50_FPN_3x, with 300 queries for many objects)",
    )
    add_output(parser, "output/train")
    _add_schedule(parser)
    add_device(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the training in the output folder"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the data and print the configuration, then stop; writes nothing",
    )
    add_opts(parser, "what is derived")


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=values.count, metavar="N", help="how often to see each image"
    )
    length.add_argument(
        "--iterations", type=values.count, metavar="N", help="batches (default: by the data)"
    )
    parser.add_argument(
        "--batch",
        type=values.count,
        metavar="N",
        help="images of a step (default: by the model, as far as memory allows)",
    )


TRAIN_JOB = Job(
    "train on annotated images, with settings that suit them",
    "queryinst train datasets/shapes --output output/shapes",
    _add_train,
)
