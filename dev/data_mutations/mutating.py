"""Seeded mutations of COCO JSON, of one entry or of all, and habits of other formats."""

import copy
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[Any, ...]

OTHERS: list[Any] = [None, True, False, "", "x", 0, 1, -1, 3, 0.5, 1e9, -1e9, 10**20, 2**53 + 1]
OTHERS += [float("nan"), float("inf"), [], {}, [0, 0, 0, 0], [[]], [None], {"a": 1}, "[]", "0"]
_SCALES = (-1, 0, 0.01, 0.5, 2, 10, 1000, 1 / 64, 1 / 96, 1e6)
_SHARE_OF_ALL = 0.3  # of the mutations are of all entries
_SHARE_OF_TEXT = 0.04  # are of the text
_SHARE_OF_HABITS = 0.1  # are those of other formats, of the whole file
_IDS: list[Callable[[int], Any]] = [str, float, lambda x: -x, lambda x: x - 1, lambda x: 2**60 + x]
_IDS += [lambda x: f"3f{x}-b", lambda x: x + 0.5, lambda x: [x], lambda x: str(x) if x % 2 else x]
_BOXES: list[Callable[[list[float]], list[Any]]] = [
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]],
    lambda b: [b[1], b[0], b[3], b[2]],
    lambda b: [b[1], b[0], b[1] + b[3], b[0] + b[2]],
    lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]],
    lambda b: [b[0] / 96, b[1] / 64, b[2] / 96, b[3] / 64],
    lambda b: [b[0] + b[2], b[1] + b[3], -b[2], -b[3]],
    lambda b: [str(x) for x in b],
]


def mutate(content: Any, rng: random.Random) -> tuple[str, str]:
    """The text of a file with one to two mutations, and what they are."""
    content, said = copy.deepcopy(content), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        is_habit = not said and rng.random() < _SHARE_OF_HABITS
        said.append((_take_habit if is_habit else _mutate_tree)(content, rng))
    text = json.dumps(content)
    if rng.random() < _SHARE_OF_TEXT:
        name, text = _mutate_text(text, rng)
        said.append(name)
    return text, "; ".join(said)


def _take_habit(content: Any, rng: random.Random) -> str:
    """Write ids, with their references, or boxes or polygons as other formats do."""
    habit = rng.choice(("images", "categories", "annotations", "bbox", "segmentation"))
    annotations = content["annotations"]
    if habit == "bbox":
        convert = rng.choice(_BOXES)
        for annotation in annotations:
            annotation["bbox"] = convert(annotation["bbox"])
    elif habit == "segmentation":
        swap = rng.random() < 0.5
        for annotation in annotations:
            if isinstance(annotation["segmentation"], list):
                (flat,) = annotation["segmentation"]
                points = zip(flat[1::2], flat[::2]) if swap else zip(flat[::2], flat[1::2])
                scale = (1, 1) if swap else (96, 64)
                changed = [x / side for point in points for x, side in zip(point, scale)]
                annotation["segmentation"] = [changed]
    else:
        convert = rng.choice(_IDS)
        for item in content[habit]:
            item["id"] = convert(item["id"])
        key = {"images": "image_id", "categories": "category_id"}.get(habit)
        for annotation in annotations if key else ():
            annotation[key] = convert(annotation[key])
    return f"habit of {habit}"


def _mutate_tree(content: Any, rng: random.Random) -> str:
    by_pattern: dict[str, list[Path]] = defaultdict(list)
    for path in _paths(content, ()):
        by_pattern["/".join("*" if isinstance(x, int) else x for x in path)].append(path)
    pattern = rng.choice(sorted(by_pattern))
    paths = by_pattern[pattern]
    name = rng.choice(sorted(OPERATIONS))
    if rng.random() >= _SHARE_OF_ALL:
        paths = [rng.choice(paths)]
    seed = rng.random()  # the same for all
    for path in reversed(paths):  # lest dropped entries should move those behind
        _apply(content, path, OPERATIONS[name], random.Random(seed))
    return f"{name} {'all ' if len(paths) > 1 else ''}{pattern}"


def _paths(node: Any, path: Path) -> Iterator[Path]:
    """The place of each key and value, RLE and polygons included."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items if isinstance(node, (dict, list)) else ():
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _paths(value, (*path, key))


def _apply(content: Any, path: Path, operation: Callable[..., None], rng: random.Random) -> None:
    container = content
    for key in path[:-1]:
        container = container[key]
    operation(container, path[-1], rng)


def _drop(container: Any, key: Any, rng: random.Random) -> None:
    del container[key]


def _replace(container: Any, key: Any, rng: random.Random) -> None:
    container[key] = copy.deepcopy(rng.choice(OTHERS))


def _retype(container: Any, key: Any, rng: random.Random) -> None:
    value = container[key]
    choices: list[Any] = [str(value), [value], {"value": value}, json.dumps(value), None]
    if isinstance(value, (int, float)) and abs(value) < 1e300:  # NaN is not
        choices += [float(value), int(value), str(float(value)), bool(value)] * 2
    elif isinstance(value, list):
        choices += [tuple(map(str, value)), dict(enumerate(map(str, value))), value[:1]]
    elif isinstance(value, str):
        choices += [f"b'{value}'", len(value), value.encode().hex(), list(value)]
    container[key] = rng.choice(choices)


def _scale(container: Any, key: Any, rng: random.Random) -> None:
    factor = rng.choice(_SCALES)
    container[key] = _scaled(container[key], factor)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {key: _scaled(child, factor) for key, child in value.items()}
    if isinstance(value, list):
        return [_scaled(child, factor) for child in value]
    if isinstance(value, str):
        return value * max(0, min(3, int(factor)))
    return value * factor if isinstance(value, (int, float)) else value


def _truncate(container: Any, key: Any, rng: random.Random) -> None:
    value = container[key]
    if isinstance(value, (str, list)):
        container[key] = value[: rng.randrange(len(value) + 1)]
    elif isinstance(value, dict):
        container[key] = dict([*value.items()][: rng.randrange(len(value) + 1)])
    else:
        container[key] = int(value) // 10 if isinstance(value, int) else value


def _duplicate(container: Any, key: Any, rng: random.Random) -> None:
    value = copy.deepcopy(container[key])
    if isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), value)
    else:
        container[rng.choice([*container, "other"])] = value


def _shift(container: Any, key: Any, rng: random.Random) -> None:
    """By a little, as a hand or a rounding does."""
    value, step = container[key], rng.choice((-20, -1, -0.5, 0.5, 1, 20))
    if isinstance(value, list):
        container[key] = [x + step if isinstance(x, (int, float)) else x for x in value]
    elif isinstance(value, (int, float)):
        container[key] = value + step


def _reorder(container: Any, key: Any, rng: random.Random) -> None:
    value = container[key]
    if isinstance(value, list):
        container[key] = rng.choice(
            [value[::-1], value[1:] + value[:1], rng.sample(value, len(value))]
        )
    elif isinstance(value, str):
        container[key] = value[::-1]


OPERATIONS = {
    "drop": _drop,
    "replace": _replace,
    "retype": _retype,
    "scale": _scale,
    "truncate": _truncate,
    "duplicate": _duplicate,
    "shift": _shift,
    "reorder": _reorder,
}


def _mutate_text(text: str, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(text))
    return rng.choice(
        [
            ("cut the text", text[:place]),
            ("drop a character", text[:place] + text[place + 1 :]),
            ("byte-order mark", f"\ufeff{text}"),
            ("key twice", text.replace('"id":', '"id": 1, "id":', 1)),
            ("comma at the end", text[:-1] + ",}"),
        ]
    )
