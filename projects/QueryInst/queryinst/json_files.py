"""Reads JSON of others: whatever is wrong with it is one line that names the file and the place."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


def read_json(path: str, kind: type | None = None, label: str | None = None) -> Any:
    """Parse a file of JSON.

    NaN and Infinity, which Python writes, are numbers here: whoever needs a finite number checks
    it, and names its place.

    Args:
        kind: what it must hold, dict or list; None for anything.
        label: what messages call the file, if not by its path.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not UTF-8, not JSON, nested too deeply, has an integer of thousands of
            digits, a key twice in one object, or is not of this kind.
    """
    label = label or path
    with open(path, encoding="utf-8") as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{label} is not valid JSON: not UTF-8 text ({error})") from error
    return parse_json(text, label, kind)


def read_head(path: str, num_bytes: int = 65_536) -> str:
    """The beginning of a text file, to tell what it is; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(num_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def parse_json(text: str, label: str, kind: type | None = None) -> Any:
    """Parse a text of JSON; the rest is as in `read_json`."""
    try:
        with without_garbage_collection():
            content = json.loads(text, object_pairs_hook=_as_dict)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{label} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError:
        raise ValueError(f"{label} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:  # a key twice, or Python's limit of digits
        raise ValueError(f"{label} is not valid JSON: {error}") from error
    if kind is not None and not isinstance(content, kind):
        raise ValueError(f"{label} holds a {type(content).__name__}, not {_KINDS[kind]}")
    return content


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"one of its objects has the key {twice!r} more than once")
    return content


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Python looks through all objects each time that their number has grown; here none is left."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
