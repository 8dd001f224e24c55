"""Ids that no reader takes, numbered anew in place, with all references to them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from .coco_json import find_near, is_category_id, is_image_id, is_usual_annotation_id
from .fixing_numbers import as_integer

Item = dict[str, Any]


def fix_image_ids(content: Item, mends: Counter[str]) -> None:
    """Number images from 1 if an id is none, or texts and numbers are mixed.

    Ids that annotations name by another type get that of their image.

    Args:
        mends: counts, by: "image-ids", "references".
    """
    images, annotations = content["images"], content.get("annotations", [])
    ids = [image.get("id") for image in images]
    is_mixed = len({isinstance(id_, str) for id_ in ids}) > 1
    if is_mixed or not all(map(is_image_id, ids)):
        numbers = [*range(1, len(ids) + 1)]
        _renumber(images, annotations, "image_id", numbers, mends, "image-ids")
    elif len(set(ids)) == len(ids):
        names = _by_name(images, "file_name")
        _match(annotations, "image_id", set(ids), names, is_image_id, mends)


def fix_category_ids(content: Item, mends: Counter[str]) -> None:
    """Make integers of the ids of categories.

    Texts and floats that are integers become these. If others are none, all are numbered from 1, in
    the order of the ids if they are texts alone, which numbers the classes.

    Args:
        mends: counts, by: "category-ids", "references".
    """
    categories, annotations = content["categories"], content.get("annotations", [])
    ids = [category.get("id") for category in categories]
    if all(is_category_id(id_, evaluated=True) for id_ in ids):
        if len(set(ids)) == len(ids):
            names = _by_name(categories, "name")
            _match(annotations, "category_id", set(ids), names, _is_integer_id, mends)
        return
    numbers = [as_integer(id_) for id_ in ids]
    is_plain = all(is_category_id(number, evaluated=True) for number in numbers)
    if not is_plain or len(set(numbers)) < len(numbers):
        order = [*range(len(ids))]
        if all(isinstance(id_, str) for id_ in ids):
            order.sort(key=lambda place: ids[place])
        numbers = [order.index(place) + 1 for place in range(len(ids))]
    _renumber(categories, annotations, "category_id", numbers, mends, "category-ids")


def fix_annotation_ids(content: Item, mends: Counter[str]) -> None:
    """Number annotations from 1 if an id is missing, occurs twice, or is one that no tool expects.

    Args:
        mends: counts, by: "annotation-ids".
    """
    annotations = content.get("annotations", [])
    ids = [annotation.get("id") for annotation in annotations]
    if all(map(is_usual_annotation_id, ids)) and len(set(ids)) == len(ids):
        return
    for number, annotation in enumerate(annotations, start=1):
        mends["annotation-ids"] += repr(annotation.get("id")) != repr(number)
        annotation["id"] = number


def _is_integer_id(value: Any) -> bool:
    return is_category_id(value, evaluated=True)


def _key(value: Any) -> str:
    """Tells 1 from "1"; 1.0 is 1."""
    whole = isinstance(value, float) and value.is_integer()
    return repr(int(value) if whole else value)


def _renumber(
    items: list[Item],
    annotations: list[Item],
    reference: str,
    numbers: list[int],
    mends: Counter[str],
    name: str,
) -> None:
    """Give items new ids, if each can be told from the others by its own."""
    keys = [_key(item["id"]) for item in items if "id" in item]
    if len(set(keys)) < len(items):
        return
    by_key = dict(zip(keys, numbers))
    by_text = {_text(item["id"]): number for item, number in zip(items, numbers)}
    is_clear = len(by_text) == len(items)
    for item, new in zip(items, numbers):
        mends[name] += _key(item["id"]) != _key(new) or not isinstance(item["id"], int)
        item["id"] = new
    used = set(numbers)
    for annotation in annotations:
        before = annotation.get(reference)
        number: int | None = by_key.get(_key(before))
        if number is None and is_clear:
            number = by_text.get(_text(before))
        if number is None and is_image_id(before) and before in used:
            number = max(used) + 1  # it named no item, and must not name one now
        if number is not None and number is not before:
            annotation[reference] = number


def _text(value: Any) -> str:
    """The same of 1, 1.0 and "1"."""
    return value if isinstance(value, str) else _key(value)


def _by_name(items: list[Item], key: str) -> dict[str, Any]:
    """The ids of items by their names, of which none occurs twice."""
    names = Counter(item[key] for item in items if isinstance(item.get(key), str))
    return {item[key]: item["id"] for item in items if names.get(str(item.get(key))) == 1}


def _match(
    annotations: list[Item],
    reference: str,
    known: set[Any],
    names: dict[str, Any],
    is_id: Callable[[Any], bool],
    mends: Counter[str],
) -> None:
    """Write references as the ids that they mean, where these are of another type."""
    for annotation in annotations:
        value = annotation.get(reference)
        if is_id(value) and value in known:
            continue
        near = find_near(value, known)
        whole = as_integer(value)
        if near is None and is_id(whole) and whole in known:
            near = whole
        if near is None and isinstance(value, str):
            near = names.get(value)
        if near is not None:
            annotation[reference] = near
            mends["references"] += 1
