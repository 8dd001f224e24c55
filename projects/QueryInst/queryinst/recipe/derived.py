"""What the recipe says of a key."""

from typing import Any, NamedTuple


class Derived(NamedTuple):
    """A key of the configuration, the value that suits the data, and why.

    Attributes:
        reason: a few words for a person, without the value.
    """

    key: str
    value: Any
    reason: str


def counted(number: int, what: str, plural: str = "") -> str:
    """Such as "1 image" or "2,000 images"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"
