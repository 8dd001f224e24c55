"""Checks of data sets that users' functions return, as Detectron2's dicts."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from .coco_json import is_image_id
from .instance_checks import describe, find_image_problem, find_mode_problem
from .mask_bounds import is_number, shorten


def load_dicts(name: str) -> Any:
    """What the function registered for a data set returns.

    Raises:
        ValueError: it raises anything.
    """
    try:
        return DatasetCatalog.get(name)
    except Exception as error:  # the registered function can raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"data set {name!r} cannot be loaded: {said}") from error


def iterate_dicts(
    dicts: Iterable[Any],
    name: str,
    *,
    trained: bool,
    evaluated: bool,
    num_classes: int,
    max_pixels: int,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Check the keys of Detectron2's dicts, and yield each annotation with its image.

    Raises:
        ValueError: the first problem, in one line.
    """
    image_keys: tuple[str, ...] = ("file_name", "height", "width")
    image_keys += (("annotations",) if trained else ()) + (("image_id",) if evaluated else ())
    for position, image in enumerate(dicts):
        if problem := _find_image_problem(image, image_keys, max_pixels):
            raise ValueError(f"data set {name!r}: the dict of image {position} has {problem}")
        for annotation in image.get("annotations", ()):
            if problem := _find_annotation_problem(annotation, num_classes):
                raise ValueError(f"data set {name!r}: {describe(annotation, image)} {problem}")
            yield annotation, image


def _find_image_problem(image: Any, keys: tuple[str, ...], max_pixels: int) -> str:
    if not isinstance(image, dict):
        return f"the type {type(image).__name__}, which must be dict"
    for key in keys:
        if key not in image:
            return f"no {key!r}"
    if "image_id" in keys and not is_image_id(image["image_id"]):
        return f"the 'image_id' {shorten(image['image_id'])}, which must be an integer or text"
    annotations = image.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        return f"the 'annotations' {shorten(annotations)}, which must be a list of dicts"
    return find_image_problem(image, max_pixels)


def _find_annotation_problem(annotation: dict[str, Any], num_classes: int) -> str:
    for key in ("bbox", "bbox_mode", "category_id"):
        if key not in annotation:
            return f"has no {key!r}"
    category_id = annotation["category_id"]
    if not (is_number(category_id) and 0 <= category_id < num_classes):
        return (
            f"has category_id {shorten(category_id)}, which must be >= 0 and below "
            f"MODEL.ROI_HEADS.NUM_CLASSES {num_classes}"
        )
    return find_mode_problem(annotation["bbox_mode"])


def check_conversion(name: str) -> None:
    """Convert a data set as its evaluation will, which otherwise fails after the training.

    Raises:
        ValueError: it cannot be converted.
    """
    try:
        json.dumps(convert_to_coco_dict(name))
    except Exception as error:  # polygons of two points, arrays, RLE of another kind, ...
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"data set {name!r} cannot be converted to COCO's format for evaluation: {said}"
        ) from error
