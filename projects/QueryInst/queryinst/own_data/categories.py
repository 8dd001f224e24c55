"""Lists of classes: alike within a part, and different between parts."""

from collections.abc import Sequence

from ..data.findings import Finding, Findings, Kind
from ..data.mask_bounds import shorten
from .statistics import SplitStatistics, plain_name

DIFFER = Kind(
    "categories-differ",
    "error",
    "differences between the parts' categories, which the model numbers by their order",
    "give all parts the same 'categories', also those of which a part has no objects",
)
ALIKE = Kind(
    "categories-alike",
    "warning",
    "categories whose names differ by case, spaces, - or _ alone",
    "give both one id if they are one class",
)
WITHOUT_OBJECTS = Kind(
    "category-without-objects",
    "warning",
    "categories without an object to train on",
    "annotate some, or remove the category from all parts",
)
NOT_HELD_OUT = Kind(
    "category-not-held-out",
    "note",
    "categories without an object in a held-out part, whose AP is not measured",
    "hold some of their images out; `queryinst data split` sees to it",
)


def check_categories(parts: Sequence[SplitStatistics], findings: Findings) -> None:
    """Add what is wrong with the categories of all parts; the first is the one to train on."""
    for part in parts:
        _find_alike(part, findings)
        kind = WITHOUT_OBJECTS if part is parts[0] else NOT_HELD_OUT
        for class_ in part.classes():
            if not class_.num_objects:
                message = f"category {shorten(class_.name)} has no object in {part.name}"
                findings.add(kind, Finding(part.json_file, message))
    for part in parts[1:]:
        for message in _differences(parts[0], part):
            findings.add(DIFFER, Finding(part.json_file, message))


def _find_alike(part: SplitStatistics, findings: Findings) -> None:
    first: dict[str, str] = {}
    for name in part.thing_classes:
        other = first.setdefault(plain_name(name), name)
        if other != name:
            message = (
                f"the categories {shorten(other)} and {shorten(name)} of {part.name} are alike"
            )
            findings.add(ALIKE, Finding(part.json_file, message))


def _differences(first: SplitStatistics, part: SplitStatistics) -> list[str]:
    if part.thing_classes == first.thing_classes:
        return []
    messages = [
        *_missing(first.thing_classes, part.thing_classes, first.name, part.name),
        *_missing(part.thing_classes, first.thing_classes, part.name, first.name, twice=True),
    ]
    if messages:
        return messages
    for number, (expected, actual) in enumerate(zip(first.thing_classes, part.thing_classes)):
        if expected != actual:
            messages.append(
                f"class {number} is {shorten(expected)} in {first.name}, but {shorten(actual)} in"
                f" {part.name}: their ids are in another order"
            )
    return messages


def _missing(
    names: Sequence[str], others: Sequence[str], where: str, elsewhere: str, twice: bool = False
) -> list[str]:
    """What the one list has and the other has not.

    Args:
        twice: whether near the same names were named the other way around already.
    """
    near = {plain_name(name): name for name in others if name not in names}
    messages = []
    for name in names:
        if name in others:
            continue
        if plain_name(name) not in near:
            messages.append(f"{elsewhere} has no category {shorten(name)}, which {where} has")
        elif not twice:
            other = near[plain_name(name)]
            messages.append(
                f"category {shorten(name)} of {where} is {shorten(other)} in {elsewhere}"
            )
    return messages
