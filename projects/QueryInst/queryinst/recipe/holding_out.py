"""Holds images out where a data set has no part for validation."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ..own_data.contents import load_content
from ..own_data.sources import Split, write_json
from ..own_data.splitting import split_content
from ..own_data.stratifying import TooFewError
from ..wording import counted

SHARE, MOST_IMAGES = 0.2, 1000  # of the images are held out
SEED = 0
_NAMED = 5  # images that the note names


class Held(NamedTuple):
    """Both parts, as COCO JSON's content and where it is."""

    train: dict[str, Any]
    val: dict[str, Any]
    train_split: Split
    val_split: Split
    notes: tuple[str, ...]


def hold_out(content: dict[str, Any], source: Split, output: str) -> Held:
    """Split the images of a data set, the same way each time; equal images stay on one side.

    Where no part can be held out, as all images are equal, both are the whole, which a note says.

    Args:
        content: of `source`.
        output: folder for train.json and val.json, which `write_held` writes.

    Raises:
        ValueError: an image cannot be read.
    """
    num = len(content["images"])
    chosen = _choose(source, num)
    train, val = (_part_of(content, chosen, inside) for inside in (False, True))
    if not all(map(_has_objects, (train, val))):
        note = (
            f"none of the {counted(num, 'image')} can be held out: figures are of what was trained"
            " on, and say nothing about other images"
        )
        split = source._replace(name="train")
        return Held(content, content, split, split._replace(name="val"), (note,))
    train_split, val_split = _splits(source, output)
    names = [str(image["file_name"]) for image in val["images"]]
    first = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    note = f"held out: {len(names):,} of {counted(num, 'image')} ({val_split.json_file}): {first}"
    return Held(train, val, train_split, val_split, (note,))


def write_held(held: Held) -> None:
    """Write the JSON files of both parts; nothing if they are the whole. Nothing is copied."""
    if held.train is not held.val:
        for split, part in ((held.train_split, held.train), (held.val_split, held.val)):
            write_json(Path(split.json_file), part)


def held_out_before(source: Split, output: str) -> tuple[Split, Split]:
    """The parts that `hold_out` wrote; the whole twice where it found none to hold out."""
    splits = _splits(source, output)
    return splits if os.path.exists(splits[0].json_file) else (source, source)


def _splits(source: Split, output: str) -> tuple[Split, Split]:
    train, val = (
        Split(name, os.path.join(output, f"{name}.json"), source.image_root)
        for name in ("train", "val")
    )
    return train, val


def _choose(source: Split, num: int) -> set[Any]:
    """The ids of the images to hold out; none where no two images differ."""
    share = min(SHARE, MOST_IMAGES / num)
    whole = load_content([source], is_test_annotated=True)
    with tqdm(total=num, unit="image", desc="equal images", disable=None, leave=False) as bar:
        try:
            parts = split_content(whole, {"train": 1 - share, "val": share}, SEED, bar.update).parts
        except TooFewError:
            return set()
    return {photo.record["id"] for photo in parts["val"]}


def _part_of(content: Mapping[str, Any], chosen: set[Any], inside: bool) -> dict[str, Any]:
    def is_in(image_id: Any) -> bool:
        return (image_id in chosen) == inside

    return {
        **content,
        "images": [x for x in content["images"] if is_in(x["id"])],
        "annotations": [x for x in content["annotations"] if is_in(x["image_id"])],
    }


def _has_objects(content: Mapping[str, Any]) -> bool:
    return any(not x.get("iscrowd") for x in content["annotations"])
