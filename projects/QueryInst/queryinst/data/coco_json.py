"""Reads COCO's annotation file and checks what training and evaluation need."""

from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from ..json_files import read_json
from .instance_checks import find_image_problem, is_text
from .mask_bounds import MAX_COORDINATE, is_integer, is_number, shorten

_LISTS = ("images", "annotations", "categories")
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_EVALUATION_KEYS = ("area", "iscrowd")  # without them pycocotools fails, after the training
_MAX_CLASS_NAME = 256  # characters
_IMAGE_ID_KIND = "an integer, another finite number, or text"
_ID_KINDS = {True: "an integer of at least 0", False: "an integer or text"}  # by: evaluated


class CocoContent(NamedTuple):
    images: dict[Any, dict[str, Any]]  # by their ids
    annotations: list[dict[str, Any]]  # those of these images
    thing_classes: list[str]  # in the order of their ids, as Detectron2 numbers them


def read_coco_json(json_file: str, *, evaluated: bool, max_pixels: int) -> CocoContent:
    """Parse and check a file in COCO's format for instances.

    Args:
        evaluated: whether pycocotools evaluates on the file. If so, annotations need "area" and
            "iscrowd", and the file may have no "annotations" at all (COCO's test sets).
        max_pixels: an image has at most; INPUT.MAX_PIXELS.

    Raises:
        ValueError: the file is not JSON, or not in COCO's format. The message names the file and
            the first wrong place.
    """
    content = read_json(PathManager.get_local_path(json_file), label=json_file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} holds a {type(content).__name__}, not an object with "
            f"{', '.join(_LISTS)} (a file of predictions?)"
        )
    if evaluated:
        content.setdefault("annotations", [])
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            raise ValueError(
                f"{json_file} has no list {key!r}; COCO's format needs {', '.join(_LISTS)}"
            )
    images = _index(json_file, content["images"], "images", _IMAGE_KEYS, evaluated)
    for image in content["images"]:
        if problem := find_image_problem(image, max_pixels):
            raise ValueError(f"{json_file}: image {shorten(image['id'])} has {problem}")
    categories = _index(json_file, content["categories"], "categories", _CATEGORY_KEYS, evaluated)
    _check_classes(json_file, content["categories"])
    annotation_keys = _ANNOTATION_KEYS + (_EVALUATION_KEYS if evaluated else ())
    is_unique = "minival" not in json_file  # COCO 2014's own, which Detectron2 excepts too
    annotations = content["annotations"]
    _index(
        json_file,
        annotations,
        "annotations",
        annotation_keys,
        evaluated,
        is_unique,
        may_be_empty=True,
    )
    for annotation in annotations:
        if problem := _find_problem(annotation, categories, evaluated):
            raise ValueError(f"{json_file}: annotation {shorten(annotation['id'])} has {problem}")
    known = [annotation for annotation in annotations if annotation["image_id"] in images]
    return CocoContent(images, known, [categories[id_]["name"] for id_ in sorted(categories)])


def is_image_id(value: Any) -> bool:
    """Whether it can be the id of an image: text, or a finite number of up to 128 bits.

    `coco_ids` numbers them for what takes less.
    """
    return isinstance(value, str) or (is_number(value) and abs(value) < 2**128)  # NaN is not


def is_annotation_id(value: Any) -> bool:
    """Whether it can be the id of an annotation: as `is_image_id`, but 3.0 rather than 3.5."""
    return is_image_id(value) and (isinstance(value, str) or int(value) == value)


def is_category_id(value: Any, *, evaluated: bool) -> bool:
    """Whether it can be the id of a category.

    Args:
        evaluated: then it is one that C code takes, an integer of 63 bits; else any integer, text,
            or 3.0, which other languages write for 3.
    """
    if evaluated:
        return is_integer(value) and 0 <= value < 2**63
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, str) or (is_integer(value) and abs(value) < 2**63)


def _index(
    json_file: str,
    items: list[Any],
    list_name: str,
    keys: tuple[str, ...],
    evaluated: bool,
    is_unique: bool = True,
    *,
    may_be_empty: bool = False,
) -> dict[Any, dict[str, Any]]:
    """The items by their ids, which are all numbers or all texts.

    Raises:
        ValueError: a key is missing, or an id is no id, or occurs twice.
    """
    if not items and not may_be_empty:
        raise ValueError(f"{json_file}: {list_name!r} is empty")
    by_id: dict[Any, dict[str, Any]] = {}
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"{json_file}: {list_name}[{position}] is not an object")
        for key in keys:
            if key not in item:
                label = f"(id {shorten(item.get('id'))})"
                raise ValueError(f"{json_file}: {list_name}[{position}] {label} has no {key!r}")
        id_ = item["id"]
        if needed := _find_id_problem(id_, list_name, evaluated):
            raise ValueError(
                f"{json_file}: {list_name}[{position}] has the id {shorten(id_)}, {needed}"
            )
        by_id[id_] = item
        if is_unique and len(by_id) != position + 1:
            raise ValueError(f"{json_file}: the id {shorten(id_)} occurs twice in {list_name!r}")
    if len({isinstance(id_, str) for id_ in by_id}) > 1:
        raise ValueError(f"{json_file}: the ids in {list_name!r} are numbers and texts, mixed")
    return by_id


def _find_id_problem(id_: Any, list_name: str, evaluated: bool) -> str:
    """What the id of an item of a list would have to be; empty if it is."""
    if list_name == "images":
        is_id, needed = is_image_id(id_), _IMAGE_ID_KIND
    elif list_name == "annotations":
        is_id, needed = is_annotation_id(id_), _ID_KINDS[False]
    else:
        is_id, needed = is_category_id(id_, evaluated=evaluated), _ID_KINDS[evaluated]
    return "" if is_id else f"which must be {needed}"


def _check_classes(json_file: str, categories: list[dict[str, Any]]) -> None:
    ids: dict[str, Any] = {}
    for category in categories:
        name = category["name"]
        if not is_text(name, _MAX_CLASS_NAME):
            raise ValueError(
                f"{json_file}: category {shorten(category['id'])} has the name {shorten(name)}, "
                f"which must be one line of text of 1 to {_MAX_CLASS_NAME} characters"
            )
        if name in ids:
            raise ValueError(
                f"{json_file}: the categories {shorten(ids[name])} and {shorten(category['id'])} "
                f"have the same name {shorten(name)}; rename one, or give both one id"
            )
        ids[name] = category["id"]


def _find_problem(annotation: dict[str, Any], categories: dict[Any, Any], evaluated: bool) -> str:
    """What is wrong with the ids and flags of an annotation; empty if nothing is."""
    for key, list_name in (("image_id", "images"), ("category_id", "categories")):
        if needed := _find_id_problem(annotation[key], list_name, evaluated):
            return f"the {key} {shorten(annotation[key])}, {needed}"
    if annotation["category_id"] not in categories:
        return f"category_id {shorten(annotation['category_id'])}, which is not in 'categories'"
    if annotation.get("ignore", 0) != 0:
        return (
            "'ignore', which Detectron2 does not support; remove the annotation, or make it a "
            "crowd ('iscrowd': 1)"
        )
    keypoints = annotation.get("keypoints") or []  # Detectron2's loader moves them
    if not isinstance(keypoints, list) or not all(map(is_number, keypoints)):
        return f"the 'keypoints' {shorten(keypoints)}, which must be a list of numbers"
    area = annotation["area"] if evaluated else 0
    if not (is_number(area) and 0 <= area <= MAX_COORDINATE**2):
        return f"the 'area' {shorten(area)}, which must be a number of pixels"
    return ""
