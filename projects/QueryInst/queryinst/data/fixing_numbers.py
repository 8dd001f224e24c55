"""Texts and floats where COCO's format has numbers and integers, put right in place."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*")
_FLAGS: dict[Any, int] = {None: 0, "": 0, "false": 0, "true": 1}

Item = dict[str, Any]


def fix_numbers(content: Item, mends: Counter[str]) -> None:
    """Mend sizes, boxes, polygons, RLE, areas and crowd flags.

    Args:
        mends: counts, by: "integers", "numbers", "crowd-flags".
    """
    for image in content["images"]:
        for key in ("height", "width"):
            mends["integers"] += _replace(image, key, as_integer)
    for annotation in content.get("annotations", []):
        mends["numbers"] += _replace(annotation, "area", as_number)
        mends["numbers"] += _replace(annotation, "bbox", _as_numbers)
        mends["crowd-flags"] += _fix_crowd(annotation)
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            for place in range(len(segmentation)):
                mends["numbers"] += _replace(segmentation, place, _as_numbers)
        elif isinstance(segmentation, dict):
            for key in ("size", "counts"):
                mends["integers"] += _replace(segmentation, key, _as_integers)


def as_number(value: Any) -> Any:
    """The number that a text is; anything else stays."""
    if not isinstance(value, str) or len(value) > 40 or not _NUMBER.fullmatch(value):
        return value
    number = float(value)
    if not math.isfinite(number):
        return value
    return int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value) else number


def as_integer(value: Any) -> Any:
    """The integer that a text or a float is; anything else stays."""
    value_as_number = as_number(value)
    if isinstance(value_as_number, float) and value_as_number.is_integer():
        return int(value_as_number)
    return value_as_number if isinstance(value_as_number, int) else value


def _as_numbers(values: Any) -> Any:
    return [as_number(value) for value in values] if isinstance(values, list) else values


def _as_integers(values: Any) -> Any:
    return [as_integer(value) for value in values] if isinstance(values, list) else values


def _replace(container: Any, key: Any, convert: Callable[[Any], Any]) -> bool:
    """Whether there was something to convert."""
    if isinstance(container, dict) and key not in container:
        return False
    before = container[key]
    after = convert(before)
    if after is before or (after == before and _types(after) == _types(before)):
        return False
    container[key] = after
    return True


def _types(value: Any) -> list[type]:
    return [type(x) for x in value] if isinstance(value, list) else [type(value)]


def _fix_crowd(annotation: Item) -> bool:
    flag = annotation.get("iscrowd")
    if isinstance(flag, str):
        flag = flag.strip().lower()
    number = _FLAGS.get(flag) if flag is None or isinstance(flag, str) else None
    number = as_integer(flag) if number is None else number
    if isinstance(flag, int) or number not in (0, 1):
        return False
    annotation["iscrowd"] = number
    return True
