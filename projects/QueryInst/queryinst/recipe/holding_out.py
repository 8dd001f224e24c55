"""Holds images out where a data set has no part for validation."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..own_data.sources import Split, write_json
from .derived import counted

SHARE, MOST_IMAGES = 0.2, 1000  # of the images are held out
SEED = 0
_NAMED = 5  # images that the note names


class Held(NamedTuple):
    """Both parts, as COCO JSON's content and where it is."""

    train: Mapping[str, Any]
    val: Mapping[str, Any]
    train_split: Split
    val_split: Split
    notes: tuple[str, ...]


def hold_out(content: Mapping[str, Any], source: Split, output: str, *, writes: bool) -> Held:
    """Split the images of a data set, the same way each time; equal images stay on one side.

    Nothing is copied. Where no part can be held out, both are the whole, which a note says.

    Args:
        output: folder for train.json and val.json.
        writes: whether they are written.

    Raises:
        OSError: the files cannot be written, or images cannot be read.
    """
    num = len(content["images"])
    chosen = choose_images(content, source.image_root, min(SHARE, MOST_IMAGES / max(num, 1)), SEED)
    train, val = (_part_of(content, chosen, inside) for inside in (False, True))
    if not all(_has_objects(part) for part in (train, val)):
        note = (
            f"none of the {counted(num, 'image')} can be held out: the figures are of what was"
            " trained on, and say nothing about other images"
        )
        split = Split("train", source.json_file, source.image_root)
        return Held(content, content, split, split._replace(name="val"), (note,))
    paths = [os.path.join(output, f"{name}.json") for name in ("train", "val")]
    if writes:
        for path, part in zip(paths, (train, val)):
            write_json(Path(path), part)
    names = [str(image["file_name"]) for image in val["images"]]
    first = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    note = f"held out: {len(names):,} of {counted(num, 'image')} ({paths[1]}): {first}"
    splits = [Split(name, path, source.image_root) for name, path in zip(("train", "val"), paths)]
    return Held(train, val, splits[0], splits[1], (note,))


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


def held_out_before(source: Split, output: str) -> tuple[Split, Split]:
    """The parts that `hold_out` wrote; the whole twice where it found none to hold out."""
    paths = [os.path.join(output, f"{name}.json") for name in ("train", "val")]
    if not any(map(os.path.exists, paths)):
        return source, source
    return Split("train", paths[0], source.image_root), Split("val", paths[1], source.image_root)
