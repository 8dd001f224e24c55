"""The procedural data set `shapes`: written as images and COCO JSON, registered with Detectron2.

Below the root: ``shapes/{train,val}/000000.png``, ``shapes/annotations/{train,val}.json``, and
``shapes/made.json``, which identifies the set. docs/shapes.md describes the data.
"""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from .shapes_drawing import CLASSES, IMAGE_SIZE, Scene, draw_scene

VERSION = 2  # of the data: a new version means new bytes, and replaces existing sets
SPLITS = ("train", "val")  # a split's position enters its images' keys: no image is in both
NUM_TRAIN = 2000
NUM_VAL = 200

_MARKER = "made.json"


def default_root() -> str:
    """The folder that data sets lie in: $DETECTRON2_DATASETS, or `datasets`."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_shapes(root: str | None = None) -> None:
    """Register `shapes_train` and `shapes_val` below `root`, unless the names are registered.

    Reads and writes no file: the data can be made later.
    """
    folder = os.path.join(root if root is not None else default_root(), "shapes")
    for split in SPLITS:
        if f"shapes_{split}" not in DatasetCatalog:
            register_coco_instances(
                f"shapes_{split}",
                {"thing_classes": list(CLASSES)},
                os.path.join(folder, "annotations", f"{split}.json"),
                os.path.join(folder, split),
            )


def make_shapes(
    root: str | os.PathLike[str],
    *,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    seed: int = 0,
    force: bool = False,
) -> bool:
    """Write ``root/shapes``, unless it holds exactly this set, complete.

    The set is made in another folder and then moved as a whole, so that an interruption leaves no
    part of one. An older version of the set is replaced.

    Args:
        force: always write, even over a folder that this function did not make.

    Returns:
        Whether it wrote.

    Raises:
        ValueError: a number of images is below 1, or the seed is negative.
        FileExistsError: this function did not make ``root/shapes``.
    """
    if num_train < 1 or num_val < 1 or seed < 0:
        raise ValueError(f"{num_train=} and {num_val=} must be >= 1, {seed=} must be >= 0")
    folder = Path(root) / "shapes"
    made = _describe(num_train, num_val, seed)
    if not force and is_complete(folder, made):
        return False
    if not force and folder.exists() and not (folder / _MARKER).exists():
        raise FileExistsError(
            f"{folder} was not made by this tool; move it, name another --root, or give --force"
        )
    building = folder.with_name(f".shapes-{os.getpid()}.part")
    shutil.rmtree(building, ignore_errors=True)  # left by a killed process of the same number
    try:
        for split, num_images in made["images"].items():
            _write_split(building, split, num_images, seed)
        (building / _MARKER).write_text(json.dumps(made))
        _replace(folder, building)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return True


def is_complete(folder: str | os.PathLike[str], made: dict[str, Any] | None = None) -> bool:
    """Whether `folder` holds the set that `made` describes, with all its files.

    Args:
        made: the content of ``made.json``; None stands for the default set.
    """
    folder, made = Path(folder), made or _describe(NUM_TRAIN, NUM_VAL, 0)
    try:
        if json.loads((folder / _MARKER).read_text()) != made:
            return False
    except (OSError, ValueError):
        return False
    return all(
        (folder / "annotations" / f"{split}.json").is_file()
        and all((folder / split / _file_name(index)).is_file() for index in range(num_images))
        for split, num_images in made["images"].items()
    )


def _describe(num_train: int, num_val: int, seed: int) -> dict[str, Any]:
    return {"version": VERSION, "seed": seed, "images": {"train": num_train, "val": num_val}}


def _file_name(index: int) -> str:
    return f"{index:06d}.png"


def _replace(folder: Path, building: Path) -> None:
    """Put `building` where `folder` is; for an instant there is neither, never half a set."""
    old = building.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    building.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_split(folder: Path, split: str, num_images: int, seed: int) -> None:
    image_folder = folder / split
    image_folder.mkdir(parents=True)
    coco = _coco_header(split, seed)
    for index in range(num_images):
        scene = draw_scene((seed, SPLITS.index(split), index))
        (image_folder / _file_name(index)).write_bytes(encode_png(scene.image))
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        coco["images"].append({"id": index + 1, "file_name": _file_name(index), **size})
        for annotation in _annotations(scene):
            # COCO's evaluation reads annotation 0 as "no match": numbers start with 1.
            number = len(coco["annotations"]) + 1
            coco["annotations"].append({"id": number, "image_id": index + 1, **annotation})
    annotation_folder = folder / "annotations"
    annotation_folder.mkdir(exist_ok=True)
    (annotation_folder / f"{split}.json").write_text(json.dumps(coco, separators=(",", ":")))


def _coco_header(split: str, seed: int) -> dict[str, Any]:
    return {
        "info": {"description": f"shapes, {split}", "version": str(VERSION), "seed": seed},
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
        "images": [],
        "annotations": [],
    }


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    """COCO's fields of all instances of a scene but their numbers; integers, boxes in XYWH_ABS."""
    annotations = []
    for instance in scene.instances:
        rle = mask_util.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
        rle["counts"] = rle["counts"].decode("ascii")
        annotations.append(
            {
                "category_id": instance.class_idx + 1,
                "bbox": _tight_box(instance.mask),
                "area": int(instance.mask.sum()),
                "iscrowd": 0,
                "segmentation": rle,
            }
        )
    return annotations


def _tight_box(mask: np.ndarray) -> list[int]:
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]


def encode_png(image: np.ndarray) -> bytes:
    """An RGB image (H, W, 3) uint8 as a PNG file, not compressed.

    Compressors differ between versions and machines; stored bytes are the same everywhere, and
    noise hardly shrinks.
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each begins with 0: no filter
    rows[:, 1:] = image.reshape(height, -1)
    data = rows.tobytes()
    starts = range(0, len(data), 0xFFFF)  # of deflate's stored blocks
    blocks = [data[start : start + 0xFFFF] for start in starts]
    stored = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block
        for block in blocks
    )
    checksum = struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", b"\x78\x01" + stored + checksum), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
