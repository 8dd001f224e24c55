"""Kinds of limits of a value. Each has `problem`: what is wrong with a value, or None."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def in_short(value: Any) -> str:
    try:
        written = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a very large number"
    return written if len(written) <= 100 else f"{written[:100]}..."


@dataclass(frozen=True)
class Number:
    """A number in `interval`, "[0, 1)" for 0 <= x < 1. NaN is in none, infinity in "(0, inf]"."""

    interval: str
    is_whole: bool = False

    def problem(self, value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{in_short(value)} must be a number"
        low, high = self.interval[1:-1].split(", ")
        least, above = (">=" if self.interval[0] == "[" else ">"), float(low)
        most, below = ("<=" if self.interval[-1] == "]" else "<"), float(high)
        if not (value >= above if least == ">=" else value > above):
            return f"{in_short(value)} must be {least} {low}"
        if not (value <= below if most == "<=" else value < below):
            return f"{in_short(value)} must be {'finite' if high == 'inf' else f'{most} {high}'}"
        if self.is_whole and isinstance(value, float):
            return f"{in_short(value)} must be an integer"
        return None


@dataclass(frozen=True)
class OneOf:
    choices: tuple

    def problem(self, value: Any) -> str | None:
        if any(type(value) is type(choice) and value == choice for choice in self.choices):
            return None
        known = ", ".join(str(choice) if choice != "" else "''" for choice in self.choices)
        return f"{in_short(value)} must be {'one of ' if len(self.choices) > 1 else ''}{known}"


@dataclass(frozen=True)
class Fits:
    """What `is_valid`, said `in_words`."""

    is_valid: Callable[[Any], Any]
    in_words: str

    def problem(self, value: Any) -> str | None:
        return None if self.is_valid(value) else f"{in_short(value)} must be {self.in_words}"


@dataclass(frozen=True)
class Each:
    """A tuple or list of `least` to `most` values, each within `limit`."""

    limit: Any
    least: int = 0
    most: int = 1000

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (tuple, list)):
            return f"{in_short(value)} must be a tuple"
        if not self.least <= len(value) <= self.most:
            span = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            return f"{in_short(value)} must hold {span} values"
        return next(filter(None, map(self.limit.problem, value)), None)


@dataclass(frozen=True)
class OrNone:
    limit: Any

    def problem(self, value: Any) -> str | None:
        return None if value is None else self.limit.problem(value)


@dataclass(frozen=True)
class Because:
    """A limit with its reason."""

    limit: Any
    reason: str

    def problem(self, value: Any) -> str | None:
        problem = self.limit.problem(value)
        return f"{problem} ({self.reason})" if problem else None


def real(interval: str) -> Number:
    return Number(interval)


def whole(interval: str) -> Number:
    return Number(interval, is_whole=True)


def text(is_valid: Callable[[str], Any] = bool, in_words: str = "a text, not empty") -> Fits:
    return Fits(lambda x: isinstance(x, str) and "\0" not in x and is_valid(x), in_words)
