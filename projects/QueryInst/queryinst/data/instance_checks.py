"""Checks of single annotations of COCO JSON and of Detectron2's dicts."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Annotation = dict[str, Any]
Image = dict[str, Any]

_MIN_POLYGON_NUMBERS = 6  # three points


def check_instances(
    pairs: Iterable[tuple[Annotation, Image]], *, name: str, masks: bool, crowds: bool
) -> int:
    """Raise an error for the first invalid annotation of the data set `name`.

    Args:
        pairs: each annotation with its image ("file_name", "height", "width").
        masks: whether each annotation needs a mask.
        crowds: whether to check crowds, which COCO's evaluation uses and training does not.

    Returns:
        The number of annotations to train on, which are not crowds.

    Raises:
        ValueError: a box is not four finite numbers, a mask is missing or malformed.
    """
    num_instances = num_checked = num_without_mask = 0
    first_without_mask = ""
    for annotation, image in pairs:
        is_crowd = bool(annotation.get("iscrowd", 0))
        num_instances += not is_crowd
        if is_crowd and not crowds:
            continue
        num_checked += 1
        if problem := _find_box_problem(annotation.get("bbox")):
            raise ValueError(f"data set {name!r}: {describe(annotation, image)} {problem}")
        if not masks:
            continue
        segmentation = annotation.get("segmentation")
        if segmentation is None or (isinstance(segmentation, list) and not segmentation):
            first_without_mask = first_without_mask or describe(annotation, image)
            num_without_mask += 1
        elif problem := _find_mask_problem(segmentation, image["height"], image["width"]):
            raise ValueError(f"data set {name!r}: {describe(annotation, image)} {problem}")
    if num_without_mask:
        raise ValueError(
            f"data set {name!r}: {num_without_mask} of {num_checked} annotations have no mask "
            f"('segmentation'), first {first_without_mask}; add the masks, or train a box detector "
            "with MODEL.MASK_ON False"
        )
    return num_instances


def describe(annotation: Annotation, image: Image) -> str:
    """How messages name an annotation: by its id, if it has one, and its image's file."""
    label = f"annotation {annotation['id']}" if "id" in annotation else "an annotation"
    return f"{label} of image {image['file_name']}"


def _find_box_problem(box: Any) -> str:
    try:
        is_valid = len(box) == 4 and all(map(math.isfinite, box))
    except TypeError:  # not a list, or not of numbers
        is_valid = False
    return "" if is_valid else f"has the 'bbox' {_shorten(box)}, which must be four finite numbers"


def _find_mask_problem(segmentation: Any, height: int, width: int) -> str:
    if isinstance(segmentation, dict):
        return _find_rle_problem(segmentation, height, width)
    if not isinstance(segmentation, list):
        return (
            f"has a 'segmentation' of type {type(segmentation).__name__}, which must be a list of "
            "polygons [[x1, y1, x2, y2, ...], ...] or RLE {'size': [height, width], 'counts': ...}"
        )
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple, np.ndarray)):
            return (
                f"has {_shorten(polygon)} in its 'segmentation' where a polygon belongs; it must "
                "be a list of polygons, each a list of its own: [[x1, y1, x2, y2, ...], ...]"
            )
    sizes = [p.size if isinstance(p, np.ndarray) else len(p) for p in segmentation]
    if not any(size >= _MIN_POLYGON_NUMBERS and size % 2 == 0 for size in sizes):
        return (
            f"has no polygon of at least 3 points in its 'segmentation' (its polygons hold "
            f"{_shorten(sizes)} numbers, which must be even and >= {_MIN_POLYGON_NUMBERS})"
        )
    return ""


def _find_rle_problem(rle: dict[str, Any], height: int, width: int) -> str:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(counts, (list, str, bytes)):
        return f"has an RLE 'segmentation' with 'counts' {_shorten(counts)}: a list or text needed"
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        return (
            f"has an RLE 'segmentation' of 'size' {_shorten(size)}, its image has [height, width] "
            f"{[height, width]}"
        )
    if isinstance(counts, list) and sum(counts) != height * width:
        return (
            f"has an RLE 'segmentation' whose 'counts' add up to {sum(counts)} pixels, its image "
            f"has {height} x {width} = {height * width}"
        )
    return ""


def _shorten(value: Any, length: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[:length]}..."
