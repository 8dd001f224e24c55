"""Rules for single images and annotations of COCO JSON and of Detectron2's dicts."""

import os
import re
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from . import problem_kinds as kinds
from .findings import ProblemError
from .mask_bounds import (
    MAX_COORDINATE,
    MIN_POLYGON_NUMBERS,
    is_area,
    is_integer,
    is_number,
    parse_mask,
    shorten,
    typed,
)

Annotation = dict[str, Any]
Image = dict[str, Any]
Box = tuple[float, float, float, float]

_MAX_FILE_NAME = 1024  # characters, of a path
# Without ends of lines, other control characters and halves of characters.
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


def describe(annotation: Annotation, image: Image) -> str:
    """How messages name an annotation: by its id, if it has one, and its image's file."""
    label = f"annotation {shorten(annotation['id'])}" if "id" in annotation else "an annotation"
    return f"{label} of image {image['file_name']}"


def parse_crowd(annotation: Annotation) -> bool:
    """Whether it is a crowd, which nothing trains on and evaluation ignores; without a flag no.

    Raises:
        ProblemError: the flag is neither 0 nor 1, so that each reader takes it for another.
    """
    crowd = annotation.get("iscrowd", 0)
    is_whole = type(crowd) is int or isinstance(crowd, Integral)
    if not is_whole or crowd not in (0, 1):
        raise ProblemError(
            kinds.CROWD_FLAG, f"has the 'iscrowd' {typed(crowd)}, which must be 0 or 1"
        )
    return bool(crowd)


def parse_box(box: Any, mode: BoxMode | None = None) -> Box:
    """A box as [x, y, width, height] in pixels.

    Args:
        mode: BoxMode.XYXY_ABS or XYWH_ABS; None for COCO's, which is the latter.

    Raises:
        ProblemError: it is no box.
    """
    box = box.tolist() if hasattr(box, "tolist") else box  # of NumPy or torch
    is_box = isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))
    if not is_box or not all(abs(side) <= MAX_COORDINATE for side in box):  # NaN is not
        raise ProblemError(
            kinds.BOX,
            f"has the 'bbox' {shorten(box)}, which must be four finite numbers from "
            f"-{MAX_COORDINATE} to {MAX_COORDINATE}",
        )
    x, y, width, height = box
    if mode == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    if width < 0 or height < 0:
        raise ProblemError(
            kinds.BOX_NEGATIVE,
            f"has the 'bbox' {shorten(box)}, whose width and height must not be negative",
        )
    return float(x), float(y), float(width), float(height)


def find_box_problem(box: Any) -> str:
    """What is wrong with a box in COCO's format; empty if nothing is."""
    try:
        parse_box(box)
    except ProblemError as error:
        return str(error)
    return ""


def has_mask(annotation: Annotation) -> bool:
    segmentation = annotation.get("segmentation")
    is_empty = isinstance(segmentation, (list, dict, str)) and not segmentation
    return segmentation is not None and not is_empty


def parse_instance_mask(annotation: Annotation, image: Image) -> list[np.ndarray] | np.ndarray:
    """As `parse_mask`, of an instance: one of its polygons must be an area.

    Raises:
        ProblemError: there is no such mask.
    """
    parsed = parse_mask(annotation["segmentation"], image["height"], image["width"])
    if isinstance(parsed, list) and not any(map(is_area, parsed)):
        raise ProblemError(
            kinds.POLYGON_NONE,
            "has no polygon of at least 3 points in its 'segmentation' (its polygons hold "
            f"{shorten(list(map(len, parsed)))} numbers, which must be even and >= "
            f"{MIN_POLYGON_NUMBERS})",
        )
    return parsed


def parse_area(area: Any) -> float:
    """An area in pixels.

    Raises:
        ProblemError: it is none.
    """
    if not (is_number(area) and 0 <= area <= MAX_COORDINATE**2):  # NaN is not
        raise ProblemError(
            kinds.AREA, f"has the 'area' {typed(area)}, which must be a number of pixels"
        )
    return float(area)


def check_image_entry(image: Image, max_pixels: int) -> None:
    """Check the file name and the size of an image's entry.

    Raises:
        ProblemError: they are none; the text goes on after "image 5 has".
    """
    name = image["file_name"]
    if not isinstance(name, (str, os.PathLike)) or not is_text(os.fspath(name), _MAX_FILE_NAME):
        raise ProblemError(
            kinds.FILE_NAME,
            f"the 'file_name' {typed(name)}, which must be one line of text of 1 to "
            f"{_MAX_FILE_NAME} characters",
        )
    height, width = image["height"], image["width"]
    if not (is_integer(height) and is_integer(width) and height >= 1 and width >= 1):
        raise ProblemError(
            kinds.IMAGE_SIDES,
            f"the 'height' {typed(height)} and 'width' {typed(width)}, which must be integers of "
            "at least 1",
        )
    if height * width > max_pixels:
        raise ProblemError(
            kinds.IMAGE_TOO_LARGE,
            f"the 'height' {shorten(height)} and 'width' {shorten(width)}: INPUT.MAX_PIXELS is "
            f"{max_pixels}; raise it, or use smaller images",
        )


def is_text(value: Any, max_length: int) -> bool:
    """Whether it is one line of text that can be written anywhere."""
    return isinstance(value, str) and len(value) <= max_length and bool(_LINE.fullmatch(value))


def check_box_mode(mode: Any) -> None:
    """Check the "bbox_mode" of Detectron2's dicts.

    Raises:
        ProblemError: it is none that this project supports.
    """
    if not (isinstance(mode, Integral) and mode in _BOX_MODES):
        raise ProblemError(
            kinds.DICTS,
            f"has the 'bbox_mode' {shorten(mode)}, which must be BoxMode.XYXY_ABS or XYWH_ABS",
        )
