"""Hostile values, and mutations of trees of lists and dicts and of bytes, by a seeded generator."""

import copy
import random
import re
from collections.abc import Sequence
from typing import Any

# Placeholders for what Python's own writers refuse; `expand` writes them out.
DEEP, DIGITS = '"@deep:{}@"', '"@digits:{}@"'
_PLACEHOLDER = re.compile(r"""["']?@(deep|digits):(\d+)@["']?""")

NUMBERS: list[Any] = [0, -1, 1, 2, 3, 0.5, -0.5, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63]
NUMBERS += [2**64, 10**9, 10**18, -(10**18), 10**400, 1e-300, 1e18, 1e300, -1e300]
NUMBERS += [float("nan"), float("inf"), float("-inf"), True, False]
TEXTS: list[Any] = ["", " ", "x", "0", "-1", "nan", "1e999", "x" * 3000, "a\x00b", "é☃", "a\nb\nc"]
TEXTS += ["%s%n", "<script>", "{0}", "None", "[]", "../x", "@deep:3000@", "@digits:5000@"]
OTHERS: list[Any] = [None, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "x"], [0, 0]]
OTHERS += [[[[[[1]]]]], [float("nan")] * 4, [1e308] * 6]


def hostile(rng: random.Random) -> Any:
    """Any plain value."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def near(value: Any, rng: random.Random) -> Any:
    """A value that resembles `value` more than `hostile` does."""
    if isinstance(value, bool):
        return rng.choice([not value, int(value), str(value)])
    if isinstance(value, (int, float)):
        return _near_number(value, rng)
    if isinstance(value, str):
        return _near_text(value, rng)
    if isinstance(value, (list, tuple)):
        return _near_list(list(value), rng)
    return hostile(rng)


def _near_number(value: float, rng: random.Random) -> Any:
    if abs(value) > 1e15:  # where arithmetic overflows
        return rng.choice(NUMBERS)
    simple = [-value, value + 1, value - 1, value * 2, value / 2, value * 1000, value + 0.5, 0, 1]
    return rng.choice([*simple, *NUMBERS, str(value), [value]])


def _near_text(value: str, rng: random.Random) -> Any:
    place = rng.randrange(len(value) + 1)
    changed = [value[:place], value[place:], value[:place] + "o" * 40 + value[place:]]
    changed += [value[:place] + chr(rng.randrange(32, 127)) + value[place + 1 :], value * 2]
    return rng.choice([*changed, value.upper(), value.lower(), *TEXTS])


def _near_list(value: list[Any], rng: random.Random) -> Any:
    place = rng.randrange(len(value) + 1)
    item = near(rng.choice(value), rng) if value else hostile(rng)
    changed = [value[:place], value + [item], value[:place] + [item] + value[place + 1 :]]
    return rng.choice([*changed, value[::-1], value + value, [value], [], [hostile(rng)]])


def random_place(tree: Any, rng: random.Random, stop: float = 0.25) -> tuple[Any, Any]:
    """A container in the tree and one of its keys or indices, by a random walk from the top."""
    container = tree
    while True:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        key = rng.choice(list(keys))
        child = container[key]
        if not isinstance(child, (dict, list)) or not child or rng.random() < stop:
            return container, key
        container = child


def mutate_tree(tree: Any, rng: random.Random, stop: float = 0.25) -> None:
    """Replace, change, remove, double, wrap, rename or swap one node, in place."""
    container, key = random_place(tree, rng, stop)
    operation = rng.choice(("replace", "near", "near", "remove", "double", "wrap", "swap"))
    if operation == "replace":
        container[key] = hostile(rng)
    elif operation == "near":
        container[key] = near(container[key], rng)
    elif operation == "remove":
        del container[key]
    elif operation == "double":
        _double(container, key, rng)
    elif operation == "wrap":
        value = container[key]
        container[key] = rng.choice([[value], {"x": value}, [value, value], str(value)])
    else:
        other, other_key = random_place(tree, rng, stop)
        value = copy.deepcopy(other[other_key])
        container[key] = value  # a copy, lest the tree should hold itself


def _double(container: Any, key: Any, rng: random.Random) -> None:
    value = copy.deepcopy(container[key])
    if isinstance(container, list):
        container.insert(key, value)
    else:
        container[rng.choice([*container, "x", f"{key}x"])] = value


def expand(text: str) -> str:
    """Write out the placeholders: nested lists, and numbers of more digits than Python prints."""

    def write(match: re.Match[str]) -> str:
        size = int(match[2])
        return "[" * size + "]" * size if match[1] == "deep" else "9" * size

    return _PLACEHOLDER.sub(write, text)


ByteEdit = Sequence[Any]  # the operation, a place as a fraction of the length, and a number


def draw_byte_edit(rng: random.Random) -> ByteEdit:
    """One edit of `edit_bytes`."""
    operation = rng.choice(
        ("flip", "flip", "flip", "byte", "cut", "zero", "insert", "drop", "copy")
    )
    # The ends of a file hold what tells how to read the rest.
    place = rng.choice((rng.random(), rng.random() * 0.02, 1 - rng.random() * 0.02))
    number = rng.randrange(256) if operation in ("flip", "byte") else 2 ** rng.randrange(12)
    return [operation, place, number]


def edit_bytes(data: bytes, edit: ByteEdit) -> bytes:
    """The bytes with one edit."""
    operation, place, number = edit
    start = min(int(place * len(data)), max(len(data) - 1, 0))
    before, after = data[:start], data[start:]
    if operation == "flip":
        return before + bytes(b ^ (1 << number % 8) for b in after[:1]) + after[1:]
    changed = {
        "byte": bytes([number % 256]) + after[1:],
        "cut": b"",
        "zero": bytes(len(after[:number])) + after[number:],
        "insert": bytes((start + 37 * i) % 256 for i in range(number)) + after,
        "drop": after[number:],
        "copy": after[:number] + after,
    }
    return before + changed[operation]
