"""The part of a data set to train on, and the part that is held out."""

import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from ..json_files import read_json
from ..own_data.sources import Split, read_data


class Parts(NamedTuple):
    """Where the annotations are, in COCO's format.

    Attributes:
        train: what to train on, or, without `val`, what to hold a part out of as well.
        val: what is held out; None if there is nothing yet.
        notes: a line each about what was chosen.
    """

    train: Split
    val: Split | None
    notes: tuple[str, ...] = ()


def find_parts(data: str, val: str | None, folder: str | None) -> Parts:
    """Read DATA and --val, of any format.

    Args:
        folder: where other formats than COCO's get their JSON files; None for a temporary one.

    Raises:
        ValueError, OSError: as `read_data`; or it is not clear which part is which. One line.
    """
    train, found, notes = _of_data(data, read_data(data, folder))
    if val is None:
        return Parts(train, found, notes)
    below = None if folder is None else os.path.join(folder, "held-out")
    splits = read_data(val, below, classes=partial(_class_names, train.json_file))
    return Parts(train, _of_val(val, splits), ())


def _class_names(json_file: str) -> list[str]:
    """In the order of their ids; none of a file that is not as it should be."""
    categories = read_json(json_file, dict).get("categories")
    try:
        names = [x["name"] for x in sorted(categories or (), key=lambda x: x["id"])]
    except (TypeError, KeyError):
        return []  # which the check says
    return names if all(isinstance(name, str) for name in names) else []


def _of_data(data: str, splits: Sequence[Split]) -> tuple[Split, Split | None, tuple[str, ...]]:
    by_name = {split.name: split for split in splits}
    if len(splits) == 1:
        return splits[0], None, ()
    if "train" not in by_name:
        raise ValueError(
            f"{data} has {_named(splits)}, and nothing to train on; name that part as"
            " JSON:IMAGE_FOLDER, and the one that is held out with --val"
        )
    notes = []
    if "val" not in by_name:
        notes.append(f"{data} has no part for validation; its test images are left alone")
    return by_name["train"], by_name.get("val"), tuple(notes)


def _of_val(val: str, splits: Sequence[Split]) -> Split:
    by_name = {split.name: split for split in splits}
    if len(splits) == 1:
        return splits[0]
    if "val" not in by_name:
        raise ValueError(f"--val {val} has {_named(splits)}; name one as JSON:IMAGE_FOLDER")
    return by_name["val"]


def _named(splits: Sequence[Split]) -> str:
    return ", ".join(f"{split.name} ({split.json_file})" for split in splits)
