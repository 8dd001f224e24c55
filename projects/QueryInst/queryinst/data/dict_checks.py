"""Finds all problems of what users' registered functions return, as Detectron2's dicts."""

import json
from collections.abc import Iterator
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from . import problem_kinds as kinds
from .coco_json import is_image_id
from .findings import Finding, Findings, Kind, ProblemError
from .instance_checks import check_box_mode, check_image_entry
from .mask_bounds import is_integer, shorten, typed
from .set_checks import SetCheck, Use


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


def check_dicts(dicts: list[Any], name: str, *, findings: Findings, use: Use) -> list[Any]:
    """Add all problems of a registered data set to `findings`, without those of image files.

    Returns:
        The dicts of images that have none themselves.
    """
    source = f"data set {name!r}"
    check, valid, num_errors = SetCheck(source, findings, use), [], 0
    image_ids: dict[Any, int] = {}
    for position, image in enumerate(dicts):
        problems = [*_find_image_problems(image, use)]
        if not problems and use.evaluated:
            first = image_ids.setdefault(image["image_id"], position)
            if first != position:
                text = f"the 'image_id' {shorten(image['image_id'])} of image {first}"
                problems = [(kinds.IMAGE_ID_TWICE, text)]
        for kind, text in problems:
            message = f"the dict of image {position} has {text}"
            findings.add(kind, _finding(source, message, image))
        num_errors += len(problems)
        if problems:
            continue
        valid.append(image)
        for annotation in image.get("annotations", ()):
            num_errors += not _check_annotation(check, annotation, image)
    if not dicts:
        findings.add(kinds.NO_IMAGES, Finding(source, "has no images"))
    check.finish("", len(dicts), "", num_errors)
    return valid


def _finding(source: str, message: str, image: Any) -> Finding:
    image = image if isinstance(image, dict) else {}
    return Finding(source, message, image.get("image_id"), None, str(image.get("file_name", "")))


def _find_image_problems(image: Any, use: Use) -> Iterator[tuple[Kind, str]]:
    """Kind and text of each, which goes on after "the dict of image 5 has"."""
    if not isinstance(image, dict):
        yield kinds.DICTS, f"the type {type(image).__name__}, which must be dict"
        return
    keys: tuple[str, ...] = ("file_name", "height", "width")
    keys += ("annotations",) if use.trained else ()
    if missing := [key for key in keys if key not in image]:
        yield kinds.DICTS, f"no {missing[0]!r}"
        return
    annotations = image.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        text = f"the 'annotations' {shorten(annotations)}, which must be a list of dicts"
        yield kinds.DICTS, text
    try:
        check_image_entry(image, use.max_pixels)
    except ProblemError as error:
        yield error.kind, str(error)
    if not use.evaluated:
        return
    if "image_id" not in image:
        yield kinds.DICTS, "no 'image_id'"
    elif not is_image_id(image["image_id"]):
        yield kinds.IMAGE_ID, (
            f"the 'image_id' {typed(image['image_id'])}, which must be an integer or text"
        )
    elif not isinstance(image["image_id"], (str, int, float)):
        yield kinds.DICTS_CONVERSION, _say_foreign("image_id", image["image_id"])


def _say_foreign(key: str, value: Any) -> str:
    return f"the {key!r} {typed(value)}, which evaluation cannot write as JSON"


def _check_annotation(check: SetCheck, annotation: dict[str, Any], image: dict[str, Any]) -> bool:
    """Whether it has no error."""
    if problem := _find_annotation_problem(annotation, check.use):
        check.report(*problem, annotation, image)
        return False
    is_valid = check.add(annotation, image)
    segmentation = annotation.get("segmentation")
    if is_valid and check.use.evaluated and isinstance(segmentation, list):
        foreign = [x for polygon in segmentation for x in _foreign_numbers(polygon)]
        if foreign:
            text = f"has {_say_foreign('segmentation', foreign[0])}"
            check.report(kinds.DICTS_CONVERSION, text, annotation, image)
            return False
    return is_valid


def _foreign_numbers(polygon: Any) -> list[Any]:
    """What of a polygon is none of Python's own; the polygon itself if it is no list."""
    if not isinstance(polygon, (list, tuple)):
        return [polygon]
    return [x for x in polygon if not isinstance(x, (int, float))]


def _find_annotation_problem(annotation: dict[str, Any], use: Use) -> tuple[Kind, str] | None:
    for key in ("bbox", "bbox_mode", "category_id"):
        if key not in annotation:
            return kinds.DICTS, f"has no {key!r}"
    id_ = annotation["category_id"]
    is_whole = is_integer(id_) or (isinstance(id_, float) and id_.is_integer())
    if not (is_whole and 0 <= id_ < use.num_classes):
        text = f"has category_id {typed(id_)}, which must be >= 0 and below"
        return kinds.CATEGORY_ID_UNKNOWN, f"{text} MODEL.ROI_HEADS.NUM_CLASSES {use.num_classes}"
    try:
        check_box_mode(annotation["bbox_mode"])
    except ProblemError as error:
        return error.kind, str(error)
    return None


def check_conversion(name: str, findings: Findings) -> None:
    """Convert a data set as its evaluation will, which otherwise fails after the training."""
    try:
        json.dumps(convert_to_coco_dict(name))
    except Exception as error:  # polygons of two points, RLE of another kind, ...
        said = " ".join(f"{type(error).__name__}: {error}".split())
        text = f"cannot be converted to COCO's format for evaluation: {said}"
        findings.add(kinds.DICTS_CONVERSION, Finding(f"data set {name!r}", text))
