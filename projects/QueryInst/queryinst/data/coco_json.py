"""Reads COCO's annotation file and checks what training and evaluation need."""

import json
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

_LISTS = ("images", "annotations", "categories")
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_EVALUATION_KEYS = ("area", "iscrowd")  # without them pycocotools fails, after the training


class CocoContent(NamedTuple):
    images: dict[Any, dict[str, Any]]  # by their ids
    annotations: list[dict[str, Any]]  # those of these images
    thing_classes: list[str]  # in the order of their ids, as Detectron2 numbers them


def read_coco_json(json_file: str, *, evaluated: bool) -> CocoContent:
    """Parse and check a file in COCO's format for instances.

    Args:
        evaluated: whether pycocotools evaluates on the file. If so, annotations need "area" and
            "iscrowd", and the file may have no "annotations" at all (COCO's test sets).

    Raises:
        ValueError: the file is not JSON, or not in COCO's format. The message names the file and
            the first wrong place.
    """
    content = _parse(json_file)
    if evaluated:
        content.setdefault("annotations", [])
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            raise ValueError(
                f"{json_file} has no list {key!r}; COCO's format needs {', '.join(_LISTS)}"
            )
    images = _index(json_file, content["images"], "images", _IMAGE_KEYS)
    categories = _index(json_file, content["categories"], "categories", _CATEGORY_KEYS)
    annotation_keys = _ANNOTATION_KEYS + (_EVALUATION_KEYS if evaluated else ())
    is_unique = "minival" not in json_file  # COCO 2014's own, which Detectron2 excepts too
    annotations = content["annotations"]
    _index(json_file, annotations, "annotations", annotation_keys, is_unique, may_be_empty=True)
    for annotation in annotations:
        if annotation["category_id"] not in categories:
            raise ValueError(
                f"{json_file}: annotation {annotation['id']} has category_id "
                f"{annotation['category_id']}, which is not in 'categories'"
            )
        if annotation.get("ignore", 0):
            raise ValueError(
                f"{json_file}: annotation {annotation['id']} has 'ignore', which Detectron2 does "
                "not support; remove the annotation, or make it a crowd ('iscrowd': 1)"
            )
    known = [annotation for annotation in annotations if annotation["image_id"] in images]
    return CocoContent(images, known, [categories[id_]["name"] for id_ in sorted(categories)])


def _parse(json_file: str) -> dict[str, Any]:
    try:
        with open(PathManager.get_local_path(json_file), encoding="utf-8") as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{json_file} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{json_file} is not valid JSON: not UTF-8 text ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} holds a {type(content).__name__}, not an object with "
            f"{', '.join(_LISTS)} (a file of predictions?)"
        )
    return content


def _index(
    json_file: str,
    items: list[Any],
    list_name: str,
    keys: tuple[str, ...],
    is_unique: bool = True,
    *,
    may_be_empty: bool = False,
) -> dict[Any, dict[str, Any]]:
    """The items by their ids. Raises ValueError if a key is missing or an id occurs twice."""
    if not items and not may_be_empty:
        raise ValueError(f"{json_file}: {list_name!r} is empty")
    by_id: dict[Any, dict[str, Any]] = {}
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"{json_file}: {list_name}[{position}] is not an object")
        for key in keys:
            if key not in item:
                raise ValueError(
                    f"{json_file}: {list_name}[{position}] (id {item.get('id')}) has no {key!r}"
                )
        by_id[item["id"]] = item
        if is_unique and len(by_id) != position + 1:
            raise ValueError(f"{json_file}: the id {item['id']} occurs twice in {list_name!r}")
    return by_id
