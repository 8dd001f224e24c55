"""The ids that COCO's annotation file may have, and the entries of its lists by their ids."""

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from . import problem_kinds as kinds
from .findings import Finding, Findings, Kind
from .mask_bounds import is_integer, is_number, shorten, typed

Item = dict[str, Any]


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
        evaluated: then it is one that C code takes, also as a float, an integer of 53 bits; else
            any integer, text, or 3.0, which other languages write for 3.
    """
    if evaluated:
        return is_integer(value) and 0 <= value < 2**53
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, str) or (is_integer(value) and abs(value) < 2**63)


def is_usual_annotation_id(value: Any) -> bool:
    """Whether it is what all tools take: some take 0 for none."""
    return is_integer(value) and 1 <= value < 2**31


def find_near(value: Any, known: Container[Any]) -> Any:
    """What `value` is of another type, if that is known: 1 for "1" and "1" for 1; else None."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        number = int(value if value.isdigit() else number) if number.is_integer() else number
        return number if number in known else None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text if text in known else None


class IdRule:
    """What the ids of one of the lists must be."""

    def __init__(
        self,
        is_id: Callable[[Any], bool],
        needed: str,
        wrong: Kind,
        twice: Kind,
        mixed: Kind | None,
    ):
        """
        Args:
            needed: what an id must be, in words.
            wrong, twice, mixed: kinds of problems; None where numbers and texts may be mixed.
        """
        self.is_id, self.needed = is_id, needed
        self.wrong, self.twice, self.mixed = wrong, twice, mixed


def id_rules(evaluated: bool) -> dict[str, IdRule]:
    """The rules by the names of the lists."""
    category = "an integer of at least 0, and below 2**53" if evaluated else "an integer or text"
    return {
        "images": IdRule(
            is_image_id,
            "an integer, another finite number, or text",
            *(kinds.IMAGE_ID, kinds.IMAGE_ID_TWICE, kinds.IMAGE_ID_MIXED),
        ),
        "annotations": IdRule(
            is_annotation_id,
            "an integer or text",
            *(kinds.ANNOTATION_ID, kinds.ANNOTATION_ID_TWICE, None),
        ),
        "categories": IdRule(
            lambda value: is_category_id(value, evaluated=evaluated),
            category,
            *(kinds.CATEGORY_ID, kinds.CATEGORY_ID_TWICE, kinds.CATEGORY_ID_MIXED),
        ),
    }


def index_items(
    content: dict[str, list[Any]],
    list_name: str,
    keys: tuple[str, ...],
    rule: IdRule,
    findings: Findings,
    source: str,
    *,
    is_unique: bool = True,
) -> tuple[dict[Any, Item], list[tuple[int, Item]]]:
    """The entries of a list that have all keys and a valid id of their own.

    Args:
        keys: that each entry needs.
        is_unique: whether an id may occur once only.
        findings: gets what is wrong with the others.

    Returns:
        The entries by their ids, and with their positions in the list.
    """
    by_id: dict[Any, Item] = {}
    valid: list[tuple[int, Item]] = []
    for position, item in enumerate(content[list_name]):
        place = f"{list_name}[{position}]"
        found = _find_problem(place, item, keys, rule)
        if found is None and is_unique and item["id"] in by_id:
            found = rule.twice, f"the id {shorten(item['id'])} occurs twice in {list_name!r}"
        if found is not None:
            findings.add(found[0], _finding(source, found[1], item, list_name, position))
            continue
        by_id[item["id"]] = item
        valid.append((position, item))
    if rule.mixed and len({isinstance(id_, str) for id_ in by_id}) > 1:
        text = f"the ids in {list_name!r} are numbers and texts, mixed"
        first = next(x for x in by_id if isinstance(x, str))
        other = next(x for x in by_id if not isinstance(x, str))
        findings.add(rule.mixed, Finding(source, f"{text}: {typed(other)}, {typed(first)}"))
    return by_id, valid


def _find_problem(
    place: str, item: Any, keys: tuple[str, ...], rule: IdRule
) -> tuple[Kind, str] | None:
    if not isinstance(item, dict):
        return kinds.FORMAT, f"{place} is not an object, but {typed(item)}"
    for key in keys:
        if key not in item:
            return kinds.KEY_MISSING, f"{place} (id {shorten(item.get('id'))}) has no {key!r}"
    if not rule.is_id(item["id"]):
        return rule.wrong, f"{place} has the id {typed(item['id'])}, which must be {rule.needed}"
    return None


def _finding(source: str, text: str, item: Any, list_name: str, position: int) -> Finding:
    item = item if isinstance(item, dict) else {}
    file_name = str(item.get("file_name", "")) if list_name == "images" else ""
    if list_name == "annotations":
        return Finding(source, text, item.get("image_id"), item.get("id"), "", position)
    return Finding(source, text, item.get("id") if list_name == "images" else None, None, file_name)


class References:
    """Checks the ids that annotations have of images and categories, and their flags."""

    def __init__(
        self,
        content: Mapping[str, list[Any]],
        images: Mapping[Any, Item],
        categories: Mapping[Any, Item],
        rules: Mapping[str, IdRule],
    ):
        """
        Args:
            content: with all entries, those too that have errors of their own.
            images, categories: that have none, by their ids.
        """
        self._rules = rules
        self._listed = {x: _ids_of(content[x]) for x in ("images", "categories")}
        self._names: dict[str, dict[Any, Any]] = {
            "images": {str(x["file_name"]): id_ for id_, x in images.items()},
            "categories": {str(x["name"]): id_ for id_, x in categories.items()},
        }

    def find_problems(self, annotation: Item) -> Iterator[tuple[Kind, str]]:
        """The kind and the text of each, which goes on after "annotation 5 has"."""
        yield from self._find(annotation, "image_id", "images", kinds.IMAGE_ID_UNKNOWN)
        yield from self._find(annotation, "category_id", "categories", kinds.CATEGORY_ID_UNKNOWN)
        if annotation.get("ignore", 0) != 0:
            text = f"'ignore' {shorten(annotation['ignore'])}, which Detectron2 does not support"
            yield kinds.IGNORE, text
        keypoints = annotation.get("keypoints") or []  # Detectron2's loader moves them
        if not isinstance(keypoints, list) or not all(map(is_number, keypoints)):
            text = f"the 'keypoints' {shorten(keypoints)}, which must be a list of numbers"
            yield kinds.KEYPOINTS, text

    def _find(
        self, annotation: Item, key: str, list_name: str, unknown: Kind
    ) -> Iterator[tuple[Kind, str]]:
        value, rule, known = annotation[key], self._rules[list_name], self._listed[list_name]
        is_id = rule.is_id(value)
        if is_id and value in known:
            return
        near = find_near(value, known)
        if near is None and isinstance(value, str):
            near = self._names[list_name].get(value)  # a name where an id belongs
        if near is not None:
            kind = kinds.IMAGE_ID_TYPE if list_name == "images" else kinds.CATEGORY_ID_TYPE
            yield kind, f"{key} {typed(value)}, but {list_name!r} has {typed(near)}"
        elif not is_id:
            yield rule.wrong, f"the {key} {typed(value)}, which must be {rule.needed}"
        else:
            yield unknown, f"{key} {typed(value)}, which is not in {list_name!r}"


def _ids_of(items: list[Any]) -> set[Any]:
    """All ids that can be one of any list."""
    ids = (item.get("id") for item in items if isinstance(item, dict))
    return {id_ for id_ in ids if is_image_id(id_)}
