"""LabelMe's format: a JSON file an image, with shapes in pixels.

As LabelMe 5 writes it: https://github.com/wkentaro/labelme
"""

import base64
import io
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..data.coco_folder import split_name
from ..data.mask_bounds import MAX_COORDINATE, is_number, shorten
from ..json_files import read_head, read_json
from .image_files import by_stem, files_below, folder_name, images_below
from .labels import Item, LabelledObject, Layout, as_text, is_class_name
from .problems import BAD_FILE, BAD_VALUE, NO_AREA, NO_IMAGE, NO_LABELS, Problems

_OF_LABELME = re.compile(r'"(shapes|imagePath|imageData)"\s*:')
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_CIRCLE_ERROR = 0.02  # pixels, at most, between a circle and the polygon that stands for it


def is_labelme(folder: Path) -> bool:
    return any(map(_is_of_labelme, _json_files(folder)))


def find_layout(data: str, problems: Problems) -> Layout:
    """The annotated images of a folder and the folders in it."""
    root = Path(data)
    images = images_below(root)
    beside = by_stem(images)
    parts: dict[str, list[Item]] = {}
    known: dict[str, Path] = {}  # images with their JSON files
    for path in filter(_is_of_labelme, _json_files(root)):
        image = _find_image(path, beside, problems)
        if image and known.setdefault(os.path.realpath(image), path) != path:
            other = known[os.path.realpath(image)]
            problems.add(BAD_FILE, str(path), f"is of {image}, as {other} is; join them", image)
        elif image:
            part = _part_of(path, root) or _part_of(Path(image), root) or folder_name(root)
            parts.setdefault(part, []).append(Item(image, (str(path),)))
    for image in images:
        if os.path.realpath(image) not in known:
            problems.add(NO_LABELS, image, "no JSON file names it")

    def read(item: Item, height: int, width: int) -> Iterator[LabelledObject]:
        return _read_shapes(item, height, width, problems)

    return Layout(parts, None, read)


def _json_files(folder: Path) -> list[Path]:
    return list(map(Path, files_below(folder, (".json",))))


def _is_of_labelme(path: Path) -> bool:
    return bool(_OF_LABELME.search(read_head(str(path), 4096))) or bool(
        _OF_LABELME.search(read_head(str(path)))
    )


def _part_of(path: Path, root: Path) -> str:
    """ "train", "val" or "test", if a folder on the way from the root says so."""
    names = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    return next(filter(None, map(split_name, names)), "")


def _find_image(path: Path, images: dict[str, list[str]], problems: Problems) -> str:
    """The image that a JSON file names, or that has its name."""
    try:
        content = read_json(str(path), dict)
    except (OSError, ValueError) as error:
        problems.add(BAD_FILE, str(path), str(error))
        return ""
    named = content.get("imagePath")
    if not isinstance(named, str) or not named or "\0" in named:
        problems.add(BAD_VALUE, str(path), f"has the imagePath {shorten(named)}, not a file's name")
        return ""
    relative = named.replace("\\", "/")
    name = relative.rpartition("/")[2]
    for candidate in (path.parent / named, path.parent / relative, path.parent / name):
        if os.path.isfile(candidate):
            return os.path.normpath(candidate)
    same_name = [x for x in images.get(Path(name).stem, ()) if os.path.basename(x) == name]
    if not same_name:  # Windows takes a.JPG for a.jpg
        own = [x for x in images.get(Path(name).stem, ()) if Path(x).parent == path.parent]
        same_name = [x for x in own if os.path.basename(x).lower() == name.lower()]
    if len(same_name) == 1:
        return same_name[0]
    problems.add(NO_IMAGE, str(path), f"its image {shorten(named)} is not there")
    return ""


def _read_shapes(
    item: Item, height: int, width: int, problems: Problems
) -> Iterator[LabelledObject]:
    (path,) = item.labels
    content = read_json(path, dict)
    shapes = content.get("shapes")
    sides = [content.get(key) for key in ("imageWidth", "imageHeight")]
    if not isinstance(shapes, list):
        problems.add(BAD_FILE, path, f"has the shapes {shorten(shapes)}, not a list", item.image)
        return
    if any(side not in (None, own) for side, own in zip(sides, (width, height))):
        text = f"is of an image of {shorten(sides[0])} x {shorten(sides[1])} pixels"
        problems.add(BAD_FILE, path, f"{text}, {item.image} has {width} x {height}", item.image)
        return
    groups: dict[Any, list[tuple[str, Any]]] = {}
    for index, shape in enumerate(shapes):
        where = f"shapes[{index}]"
        try:
            if (part := _outline_of(shape, height, width)) is None:
                kind = shape["shape_type"]
                problems.add(NO_AREA, path, f"{where} is a {kind}", item.image)
                continue
        except ValueError as error:
            problems.add(BAD_VALUE, path, f"{where} {error}", item.image)
            continue
        group = shape.get("group_id")
        key = (shape["label"], index if group is None else repr(group), group is None)
        groups.setdefault(key, []).append((where, part))
    for (label, *_), parts in groups.items():
        yield LabelledObject(
            label, _joined([x for _, x in parts], height, width), path, parts[0][0]
        )


def _joined(parts: list[Any], height: int, width: int) -> Any:
    """Polygons and RLE as polygons, or as one RLE if there is one."""
    if not any(isinstance(part, dict) for part in parts):
        return parts
    rles = [
        p if isinstance(p, dict) else mask_util.frPyObjects([p], height, width)[0] for p in parts
    ]
    return as_text(mask_util.merge(rles))


def _outline_of(shape: Any, height: int, width: int) -> Any:
    """The polygon of a shape, or its RLE; None if it has no area.

    Raises:
        ValueError: it is malformed; the message goes on after its place.
    """
    if not isinstance(shape, dict):
        raise ValueError(f"is {shorten(shape)}, not an object")
    if not is_class_name(shape.get("label")):
        raise ValueError(
            f"has the label {shorten(shape.get('label'))}, which must be a line of text without"
            " spaces at its ends"
        )
    kind = shape.get("shape_type") or "polygon"
    if kind in _WITHOUT_AREA:
        return None
    points = shape.get("points")
    if not isinstance(points, list) or not all(map(_is_point, points)):
        wrong = (
            next((x for x in points if not _is_point(x)), None)
            if isinstance(points, list)
            else points
        )
        raise ValueError(f"has the point {shorten(wrong)}, which must be two numbers of pixels")
    if kind not in _OUTLINES:
        kinds = ", ".join((*_OUTLINES, *_WITHOUT_AREA))
        raise ValueError(f"has the shape_type {shorten(kind)}, which must be one of {kinds}")
    if kind == "mask":
        return _rle_of(shape, points, height, width)
    return [float(side) for point in _OUTLINES[kind](points) for side in point]


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(is_number(x) and abs(x) <= MAX_COORDINATE for x in point)  # NaN is not
    )


def _polygon(points: list[list[float]]) -> list[list[float]]:
    if len(points) < 3:
        raise ValueError(f"is a polygon of {len(points)} points, which must be 3 or more")
    return points


def _rectangle(points: list[list[float]]) -> list[list[float]]:
    if len(points) == 4:  # as some versions and tools write it
        return points
    if len(points) != 2:
        raise ValueError(f"is a rectangle of {len(points)} points, which must be 2")
    (x0, y0), (x1, y1) = points
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def _circle(points: list[list[float]]) -> list[list[float]]:
    """From its centre and a point on it."""
    if len(points) != 2:
        raise ValueError(f"is a circle of {len(points)} points, which must be 2")
    (x, y), (on_x, on_y) = points
    radius = math.dist((x, y), (on_x, on_y))
    if radius == 0:
        raise ValueError("is a circle of radius 0")
    # The middle of a side is nearest to the centre, by cos(pi / corners).
    corners = max(12, math.ceil(math.pi / math.sqrt(2 * min(_CIRCLE_ERROR / radius, 1))))
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).tolist()


_OUTLINES = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "oriented_rectangle": _rectangle,
    "mask": _polygon,  # which is drawn from its own picture instead
}


def _rle_of(shape: dict[str, Any], points: list[list[float]], height: int, width: int) -> Any:
    """Of the PNG in "mask", whose upper left pixel is at the first point."""
    try:
        png = base64.b64decode(shape["mask"], validate=True)
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.width > width or picture.height > height:
                raise ValueError("is larger than the image")
            mask = np.asarray(picture) > 0
        left, top = (int(side) for side in points[0])
        whole = np.zeros((height, width), np.uint8, order="F")
        if mask.ndim != 2 or min(left, top) < 0:
            raise ValueError("does not lie in the image")
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    except Exception as error:  # as Pillow raises them
        raise ValueError(
            f"has a mask that cannot be read: {' '.join(str(error).split())}"
        ) from error
    return as_text(mask_util.encode(whole))
