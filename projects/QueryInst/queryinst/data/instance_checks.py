"""Checks of single images and annotations of COCO JSON and of Detectron2's dicts."""

import os
import re
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .mask_bounds import (
    MAX_COORDINATE,
    MIN_POLYGON_NUMBERS,
    find_mask_problem,
    is_integer,
    is_number,
    shorten,
)

Annotation = dict[str, Any]
Image = dict[str, Any]

_MAX_FILE_NAME = 1024  # characters, of a path
# Without ends of lines, other control characters and halves of characters.
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


def check_instances(
    pairs: Iterable[tuple[Annotation, Image]], *, name: str, masks: bool, crowds: bool
) -> int:
    """Raise an error for the first invalid annotation of the data set `name`.

    Args:
        pairs: each annotation with its image ("file_name", "height", "width").
        masks: whether each annotation needs a mask. One that is there is checked anyway, because
            Detectron2's loaders hand it to C code.
        crowds: whether crowds need one, which COCO's evaluation uses and training does not.

    Returns:
        The number of annotations to train on, which are not crowds.

    Raises:
        ValueError: a box is not four finite numbers, a mask is missing or malformed.
    """
    num_instances = num_checked = num_without_mask = 0
    first_without_mask = ""
    for annotation, image in pairs:
        if problem := find_annotation_problem(annotation, image):
            raise ValueError(f"data set {name!r}: {describe(annotation, image)} {problem}")
        is_crowd = bool(annotation.get("iscrowd", 0))
        num_instances += not is_crowd
        is_needed = masks and (crowds or not is_crowd)
        num_checked += is_needed
        if is_needed and (problem := _find_point_problem(annotation.get("segmentation"))):
            raise ValueError(f"data set {name!r}: {describe(annotation, image)} {problem}")
        if is_needed and not _has_mask(annotation):
            first_without_mask = first_without_mask or describe(annotation, image)
            num_without_mask += 1
    if num_without_mask:
        raise ValueError(
            f"data set {name!r}: {num_without_mask} of {num_checked} annotations have no mask "
            f"('segmentation'), first {first_without_mask}; add the masks, or train a box detector "
            "with MODEL.MASK_ON False"
        )
    return num_instances


def describe(annotation: Annotation, image: Image) -> str:
    """How messages name an annotation: by its id, if it has one, and its image's file."""
    label = f"annotation {shorten(annotation['id'])}" if "id" in annotation else "an annotation"
    return f"{label} of image {image['file_name']}"


def find_annotation_problem(annotation: Annotation, image: Image) -> str:
    """What is wrong with the numbers of an annotation; empty if nothing is."""
    crowd = annotation.get("iscrowd", 0)
    if not (isinstance(crowd, Integral) and crowd in (0, 1)):
        return f"has the 'iscrowd' {shorten(crowd)}, which must be 0 or 1"
    if problem := find_box_problem(annotation.get("bbox"), annotation.get("bbox_mode")):
        return problem
    if not _has_mask(annotation):
        return ""
    return find_mask_problem(annotation["segmentation"], image["height"], image["width"])


def find_image_problem(image: Image, max_pixels: int) -> str:
    """What is wrong with the file name or the size of an image's entry; empty if nothing is."""
    name = image["file_name"]
    if not isinstance(name, (str, os.PathLike)) or not is_text(os.fspath(name), _MAX_FILE_NAME):
        return (
            f"the 'file_name' {shorten(name)}, which must be one line of text of 1 to "
            f"{_MAX_FILE_NAME} characters"
        )
    height, width = image["height"], image["width"]
    if not (is_integer(height) and is_integer(width) and height >= 1 and width >= 1):
        return (
            f"the 'height' {shorten(height)} and 'width' {shorten(width)}, which must be integers "
            "of at least 1"
        )
    if height * width > max_pixels:
        return (
            f"the 'height' {shorten(height)} and 'width' {shorten(width)}: INPUT.MAX_PIXELS is "
            f"{max_pixels}; raise it, or use smaller images"
        )
    return ""


def is_text(value: Any, max_length: int) -> bool:
    """Whether it is one line of text that can be written anywhere."""
    return isinstance(value, str) and len(value) <= max_length and bool(_LINE.fullmatch(value))


def find_box_problem(box: Any, mode: BoxMode | None = None) -> str:
    """What is wrong with a box; empty if nothing is.

    Args:
        mode: BoxMode.XYXY_ABS or XYWH_ABS; None for COCO's, which is the latter.
    """
    box = box.tolist() if hasattr(box, "tolist") else box  # of NumPy or torch
    is_box = isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))
    if not is_box or not all(abs(side) <= MAX_COORDINATE for side in box):  # NaN is not
        return (
            f"has the 'bbox' {shorten(box)}, which must be four finite numbers from "
            f"-{MAX_COORDINATE} to {MAX_COORDINATE}"
        )
    x, y, right, bottom = box
    if mode == BoxMode.XYXY_ABS:
        right, bottom = right - x, bottom - y
    if right < 0 or bottom < 0:
        return f"has the 'bbox' {shorten(box)}, whose width and height must not be negative"
    return ""


def find_mode_problem(mode: Any) -> str:
    """What is wrong with the "bbox_mode" of Detectron2's dicts; empty if nothing is."""
    if isinstance(mode, Integral) and mode in _BOX_MODES:
        return ""
    return f"has the 'bbox_mode' {shorten(mode)}, which must be BoxMode.XYXY_ABS or XYWH_ABS"


def _has_mask(annotation: Annotation) -> bool:
    segmentation = annotation.get("segmentation")
    is_empty = isinstance(segmentation, (list, dict, str)) and not segmentation
    return segmentation is not None and not is_empty


def _find_point_problem(segmentation: Any) -> str:
    if not isinstance(segmentation, list) or not segmentation:
        return ""
    sizes = [p.size if isinstance(p, np.ndarray) else len(p) for p in segmentation]
    if any(size >= MIN_POLYGON_NUMBERS and size % 2 == 0 for size in sizes):
        return ""
    return (
        f"has no polygon of at least 3 points in its 'segmentation' (its polygons hold "
        f"{shorten(sizes)} numbers, which must be even and >= {MIN_POLYGON_NUMBERS})"
    )
