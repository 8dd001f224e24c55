"""Writing what was measured into models.yaml, all else in the file as it is."""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ..checkpoint.files import write_atomically
from .metadata import (
    PACKAGED_MODELS_YAML,
    Measured,
    ModelEntry,
    load_models,
    models_yaml,
    parse_models,
)
from .table import find_readme, insert_tables

_NAME_LINE = re.compile(r"\s*-?\s*name:\s*(\S+)")
_MEASURED_LINE = re.compile(r"(\s*)measured:.*")


def record_measured(name: str, measured: Measured) -> list[str]:
    """Write the figures into models.yaml, and into the README's table if it is the packaged file.

    Returns:
        The paths of the files that were written.

    Raises:
        ValueError: the entry has no line "measured: ..." to replace.
        OSError: a file can't be written.
    """
    path = models_yaml()
    text = with_measured(path.read_text(encoding="utf-8"), name, measured, str(path))
    _write(path, text)
    written = [str(path)]
    readme = find_readme()
    if readme and os.path.realpath(path) == os.path.realpath(PACKAGED_MODELS_YAML):
        tables = insert_tables(readme.read_text(encoding="utf-8"), load_models(path), str(readme))
        _write(readme, tables)
        written.append(str(readme))
    return written


def with_measured(text: str, name: str, measured: Measured, shown: str) -> str:
    """A models.yaml's text with one entry's figures replaced; `shown` names it in messages.

    Raises:
        ValueError: there is no such entry, or its figures don't stand on a line of their own.
    """
    before = parse_models(text, shown)
    lines, current = text.split("\n"), None
    for index, line in enumerate(lines):
        if match := _NAME_LINE.fullmatch(line):
            current = match[1].strip("\"'")
        elif (match := _MEASURED_LINE.fullmatch(line)) and current == name:
            lines[index] = f"{match[1]}measured: {_flow(measured)}"
    changed = "\n".join(lines)
    wanted = [dataclasses.replace(e, measured=measured) if e.name == name else e for e in before]
    if name not in [e.name for e in before] or not _reads_as(changed, wanted):
        raise ValueError(
            f"{shown} needs an entry of the name {name} and, behind the name, the line"
            " 'measured: null', all on one line, to put figures into"
        )
    return changed


def _reads_as(text: str, entries: Sequence[ModelEntry]) -> bool:
    try:
        return list(parse_models(text, "")) == list(entries)
    except ValueError:
        return False


def _flow(measured: Measured) -> str:
    """On one line; JSON's strings and numbers are yaml's as well."""
    pairs = [
        f"{field.name}: {json.dumps(getattr(measured, field.name))}"
        for field in dataclasses.fields(measured)
    ]
    return "{" + ", ".join(pairs) + "}"


def _write(path: Path, text: str) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    advice = "figures are recorded in a checkout, in files that can be written to"
    write_atomically(os.path.realpath(path), write, advice)
