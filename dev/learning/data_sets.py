"""The data sets that learning is compared on, each as images and COCO JSON below one folder.

- `shapes`: the project's procedural set, 2,000 images to train on and 200 held out.
- `shapes-500`, `shapes-50`: only its first 500, or 50, training images; the same ones held out.
- `coins`: one photograph, its left part to train on (docs/examples/coins_to_coco.py).
- `cells`: 15 microscope images of cells, each outlined by a person (cells.py).

`python -m dev.learning.data_sets NAME...` makes them and prints what is in them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from queryinst.data.shapes import make_shapes

from .cells import write_cells

COINS_SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "coins_to_coco.py"
SUBSETS = {"shapes-500": 500, "shapes-50": 50}  # training images


class DataSet(NamedTuple):
    """Where a data set lies, and what of INPUT suits it."""

    name: str
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path
    class_names: tuple[str, ...]
    options: tuple[Any, ...]  # Detectron2's keys and values in turn, for `merge_from_list`


def _options(
    crop: float | None, train: tuple[int, ...], max_train: int, test: int, max_test: int
) -> tuple[Any, ...]:
    """INPUT's keys: what is cut out first, then shorter and longest side in pixels.

    Args:
        crop: from 1 on the side of a random square in pixels; below, the least share of each side
            of the image; None for the whole image.
    """
    kind = "absolute" if crop is not None and crop >= 1 else "relative_range"
    return (
        *("INPUT.CROP.ENABLED", crop is not None),
        *(() if crop is None else ("INPUT.CROP.TYPE", kind, "INPUT.CROP.SIZE", [crop, crop])),
        *("INPUT.MIN_SIZE_TRAIN", train, "INPUT.MAX_SIZE_TRAIN", max_train),
        *("INPUT.MIN_SIZE_TEST", test, "INPUT.MAX_SIZE_TEST", max_test),
    )


SHAPES_OPTIONS = _options(None, (128,), 128, 128, 128)
OPTIONS = {
    "shapes": SHAPES_OPTIONS,
    **dict.fromkeys(SUBSETS, SHAPES_OPTIONS),
    "coins": _options(0.7, (96, 128, 160), 256, 160, 256),  # as in docs/examples/coins.yaml
    # A crop is as large as a held-out tile, and is shown at 0.75 to 1.15 times its size.
    "cells": _options(170, (128, 160, 192), 192, 160, 256),
}
NAMES = tuple(OPTIONS)


def prepare(name: str, root: str | Path = "datasets") -> DataSet:
    """Make one data set below `root`, unless it is there; says where it lies.

    Raises:
        ValueError: no data set has this name.
        FileExistsError: a folder in its place was not made by the project.
        RuntimeError: it cannot be downloaded.
    """
    if name not in NAMES:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    folder = Path(root) / name.split("-")[0]
    train_json = folder / "annotations" / "train.json"
    if folder.name == "shapes":
        make_shapes(root)
    else:
        _make_folder(folder, {"coins": _write_coins, "cells": write_cells}[name])
    if name in SUBSETS:
        subset_json = train_json.with_name(f"train_{SUBSETS[name]}.json")
        train_json = write_subset(train_json, subset_json, SUBSETS[name])
    categories = json.loads(train_json.read_text())["categories"]
    return DataSet(
        name=name,
        train_json=train_json,
        train_images=folder / "train",
        val_json=folder / "annotations" / "val.json",
        val_images=folder / "val",
        class_names=tuple(category["name"] for category in categories),
        options=OPTIONS[name],
    )


def write_subset(source: Path, target: Path, num_images: int) -> Path:
    """Write the first images of a COCO file and their annotations, ids as they are; returns target.

    Does nothing if the target exists: a shapes set that is made anew starts with an empty folder.

    Raises:
        ValueError: the source has fewer images.
    """
    if target.exists():
        return target
    coco = json.loads(source.read_text())
    images = coco["images"][:num_images]
    if len(images) < num_images:
        raise ValueError(f"{source} has {len(images)} images, a subset of {num_images} needs more")
    ids = {image["id"] for image in images}
    annotations = [entry for entry in coco["annotations"] if entry["image_id"] in ids]
    part = target.with_name(f".{target.name}-{os.getpid()}.part")
    part.write_text(json.dumps({**coco, "images": images, "annotations": annotations}))
    return part.replace(target)


def _make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that gets its name only when complete, unless it has it already."""
    if folder.exists():
        if not all(
            (folder / "annotations" / f"{split}.json").exists() for split in ("train", "val")
        ):
            raise FileExistsError(f"{folder} holds no such data set; move it or name another root")
        return
    building = folder.with_name(f".{folder.name}-{os.getpid()}.part")
    shutil.rmtree(building, ignore_errors=True)  # left by a killed process of the same number
    try:
        write(building)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_coins(folder: Path) -> None:
    subprocess.run(
        [sys.executable, str(COINS_SCRIPT), "--root", str(folder)], check=True, capture_output=True
    )


def describe(coco: dict[str, Any]) -> str:
    """Images, objects without crowds and their sizes (square root of the area) in a COCO file."""
    objects = [entry for entry in coco["annotations"] if not entry["iscrowd"]]
    _, counts = np.unique([entry["image_id"] for entry in objects], return_counts=True)
    sizes = np.sqrt([entry["area"] for entry in objects])
    small, median, large = np.percentile(sizes, [5, 50, 95])
    sides = sorted({(image["width"], image["height"]) for image in coco["images"]})
    return (
        f"{len(coco['images'])} images of {sides[0][0]} x {sides[0][1]} to {sides[-1][0]} x "
        f"{sides[-1][1]} pixels, {len(objects)} objects, at most {counts.max()} in one image, "
        f"and {len(coco['annotations']) - len(objects)} crowds; size {median:.0f} pixels "
        f"({small:.0f} to {large:.0f} for 90%)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--root", default="datasets", help="folder (default: %(default)s)")
    args = parser.parse_args()
    for name in args.names:
        data_set = prepare(name, args.root)
        for path in (data_set.train_json, data_set.val_json):
            print(f"{name}: {path}: {describe(json.loads(path.read_text()))}")


if __name__ == "__main__":
    main()
