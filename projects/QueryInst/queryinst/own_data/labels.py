"""What the readers of label files hand over, and how it becomes COCO's format."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from ..data.instance_checks import is_text
from ..data.mask_bounds import to_rle
from .problems import BAD_VALUE, Problems

MAX_CLASS_NAME = 256  # characters


class Item(NamedTuple):
    """An image file, and the files with its objects: one, or of label images one a class."""

    image: str
    labels: tuple[str, ...] = ()


class LabelledObject(NamedTuple):
    """An object of an image.

    Attributes:
        name: of its class.
        segmentation: polygons in pixels, or RLE, as COCO has them.
        source, where: the file and the place in it, such as "line 3".
    """

    name: str
    segmentation: Any
    source: str
    where: str


class Layout(NamedTuple):
    """A data set whose label files are known, but not read.

    Attributes:
        parts: its images, by "train", "val" and "test", or the folder's name.
        classes: in their order; None for those that occur, by their names.
        read: the objects of an item whose image has this height and width.
    """

    parts: Mapping[str, list[Item]]
    classes: list[str] | None
    read: Callable[[Item, int, int], Iterable[LabelledObject]]


class Picture(NamedTuple):
    """An image whose size and objects are known."""

    file_name: str
    height: int
    width: int
    objects: list[LabelledObject]


def is_class_name(name: Any) -> bool:
    return is_text(name, MAX_CLASS_NAME) and name.strip() == name


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """A compressed RLE as JSON has it."""
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode("ascii")}


def to_coco(
    pictures: Iterable[Picture], classes: Sequence[str], problems: Problems
) -> dict[str, Any]:
    """A part of a data set in COCO's format; what cannot be drawn goes to `problems` instead."""
    ids = {name: number for number, name in enumerate(classes, start=1)}
    content: dict[str, Any] = {
        "info": {"description": "made of label files by queryinst"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    for image_id, picture in enumerate(pictures, start=1):
        size = {"height": picture.height, "width": picture.width}
        content["images"].append({"id": image_id, "file_name": picture.file_name, **size})
        for annotation in _annotations(picture, ids, problems):
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": image_id, **annotation})
    return content


def _annotations(
    picture: Picture, ids: Mapping[str, int], problems: Problems
) -> Iterator[dict[str, Any]]:
    for obj in picture.objects:
        try:
            rle = to_rle(obj.segmentation, picture.height, picture.width, obj.where)
        except ValueError as error:
            problems.add(BAD_VALUE, obj.source, str(error), picture.file_name)
            continue
        yield {
            "category_id": ids[obj.name],
            "segmentation": obj.segmentation,
            "bbox": _box_of(obj.segmentation, rle, picture),
            "area": int(mask_util.area(rle)),
            "iscrowd": 0,
        }


def _box_of(segmentation: Any, rle: dict[str, Any], picture: Picture) -> list[float]:
    """[x, y, width, height]: of polygons, of their corners within the image, as COCO's own."""
    if isinstance(segmentation, dict):
        return mask_util.toBbox(rle).tolist()
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    corners = corners.clip(0, [picture.width, picture.height])
    start, end = corners.min(0), corners.max(0)
    return [round(float(side), 3) for side in (*start, *(end - start))]
