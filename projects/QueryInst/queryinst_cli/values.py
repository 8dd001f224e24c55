"""What the values of options may be, and how lists of them end."""

import argparse
import re
from collections.abc import Sequence

SAVE_KINDS = ("picture", "coco", "jsonl", "masks", "crops", "csv")
_LISTS = ("--save", "--opts")
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # of Detectron2's configurations


def score(text: str) -> float:
    """A number in [0, 1]."""
    return _number(text, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, lambda value: 0 <= value < 1, "a number from 0 to less than 1")


def seed(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0")
    return int(text)


def _number(text, is_valid, needed: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} must be {needed}")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """HxW, such as 800x1216."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII)
    if not match or not all(map(int, match.groups())):
        raise argparse.ArgumentTypeError(f"{text!r} must be HEIGHTxWIDTH, such as 800x1216")
    return int(match[1]), int(match[2])


def end_lists(words: Sequence[str]) -> list[str]:
    """Repeat --save and --opts before each of their values: argparse would not see their ends.

    --save takes the kinds that follow it, --opts the pairs whose first word looks like a
    configuration key. So `--save coco photo.jpg` and `--opts KEY VALUE photo.jpg` leave the
    photograph to the rest. What does not look so is left to argparse, and to its errors.
    """
    ended: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return [*ended, *words[position:]]
        position += 1
        taken = 0
        if word in _LISTS:
            taken = _taken_by(word, words[position:])
            step = 1 if word == "--save" else 2
            for start in range(position, position + taken, step):
                ended += _option(word, words[start : start + step])
        if not taken:
            ended.append(word)
        position += taken
    return ended


def _taken_by(option: str, words: Sequence[str]) -> int:
    """How many of the words belong to the option before them."""
    taken = 0
    if option == "--save":
        while taken < len(words) and words[taken] in SAVE_KINDS:
            taken += 1
        return taken
    while taken + 1 < len(words) and _KEY.fullmatch(words[taken]):
        taken += 2
    return taken


def _option(option: str, values: Sequence[str]) -> list[str]:
    # With "=", a value that begins with "-" is one.
    return [f"{option}={value}" for value in values]
