"""The table that says of which class the objects in label images are, such as names.csv."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..data.mask_bounds import shorten
from ..json_files import read_json
from .labels import is_class_name

_FILES = ("names.csv", "names.json", "names.txt")
# What others call lists of classes, which do not say the class of an object's number.
_LISTS = tuple(
    f"{name}.{kind}" for name in ("classes", "labels") for kind in ("csv", "json", "txt")
)
_BACKGROUND = ("background", "_background_", "__background__")
_PER_CLASS = 1000  # objects of a class at most, where numbers are class * 1000 + object
_COLUMNS = {
    "file": ("file", "file_name", "filename", "image"),
    "number": ("id", "instance", "instance_id", "number", "value"),
    "name": ("class", "class_name", "name", "label", "category"),
}
_LINE = re.compile(r"(\d+)(?:\s*[,;:=]\s*|\s+)(.+)")

Row = tuple[str, int, str]  # stem of a file or "", number, name


class NameTable:
    """Class names by the numbers of objects, of all images or of each image."""

    def __init__(self, rows: Iterable[Row], label: str):
        """
        Raises:
            ValueError: a name is not a line of text, a number is background or has two names.
        """
        self._names: dict[tuple[str, int], str] = {}
        for file, number, name in rows:
            if number == 0 and name.lower() in _BACKGROUND:
                continue
            if number < 1:
                raise ValueError(
                    f"{label}: the number {number} has the name {name!r}; 0 is background"
                )
            if not is_class_name(name):
                raise ValueError(
                    f"{label}: the name of {number} is {shorten(name)}; it must be a line of text"
                )
            if self._names.setdefault((file, number), name) != name:
                raise ValueError(
                    f"{label}: {number} has two names, {self._names[file, number]} and {name}"
                )
        if not self._names:
            raise ValueError(f"{label} has no names")
        is_of_all = all(not file for file, _ in self._names)
        names = [self._names[key] for key in sorted(self._names)]
        self.classes = list(dict.fromkeys(names)) if is_of_all else sorted(set(names))

    def name_of(self, stem: str, number: int) -> str | None:
        """Of an object of the image with this stem.

        A number that has no name is read as that of its class times 1000 plus that of the object,
        as Cityscapes has them.
        """
        for key in ((stem, number), ("", number), ("", number // _PER_CLASS)):
            if key in self._names:
                return self._names[key]
        return None


def find_table(folders: Sequence[Path]) -> Path | None:
    """The table of names in one of the folders.

    Raises:
        ValueError: there are several.
    """
    found = [folder / name for folder in folders for name in _FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1]} both have names of classes; keep one")
    return found[0] if found else None


def find_list(folders: Sequence[Path]) -> Path | None:
    """A file beside label images that has the name of a list of classes, and is not read."""
    paths = (folder / name for folder in folders for name in _LISTS)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> NameTable:
    """
    Raises:
        ValueError: it is malformed; one line with its place.
    """
    read = {".csv": _read_csv, ".json": _read_json, ".txt": _read_text}[path.suffix]
    return NameTable(read(path), str(path))


def _read_csv(path: Path) -> list[Row]:
    """Of columns "id" and "class", and maybe "file"; without header "file" comes first."""
    lines = _lines(path)
    first = lines[0][1] if lines else ""
    delimiter = max(",;\t", key=first.count)
    cells = [
        [x.strip() for x in row] for row in csv.reader((x for _, x in lines), delimiter=delimiter)
    ]
    order = ["file", "number", "name"][-len(cells[0]) :] if cells else []
    if cells and not any(map(str.isdecimal, cells[0])):
        order = [_column(title, path) for title in cells.pop(0)]
        lines = lines[1:]
    if sorted(order) not in (["name", "number"], ["file", "name", "number"]):
        raise ValueError(f"{path}: the columns must be id and class, or file, id and class")
    rows = []
    for (number, text), row in zip(lines, cells):
        found = dict(zip(order, row))
        if len(row) != len(order) or not found["number"].isdecimal():
            raise ValueError(f"{path}, line {number}: {shorten(text)} must be {', '.join(order)}")
        rows.append((Path(found.get("file", "")).stem, int(found["number"]), found["name"]))
    return rows


def _column(title: str, path: Path) -> str:
    for column, titles in _COLUMNS.items():
        if title.lower() in titles:
            return column
    raise ValueError(f"{path}: the column {shorten(title)} is not known: file, id and class are")


def _read_json(path: Path) -> list[Row]:
    """{"1": name}, {file: {"1": name}}, or a list of names that counts from 1."""
    content = read_json(str(path))
    if isinstance(content, list):
        return _counted(content, str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {shorten(content)}, not an object such as {{'1': 'cat'}}")
    rows = []
    for key, value in content.items():
        of_file = isinstance(value, dict)
        for number, name in value.items() if isinstance(value, dict) else [(key, value)]:
            if not (number.isdecimal() and len(number) < 10 and isinstance(name, str)):
                raise ValueError(
                    f"{path}: {shorten(number)}: {shorten(name)} is no number and name"
                )
            rows.append((Path(key).stem if of_file else "", int(number), name))
    return rows


def _read_text(path: Path) -> list[Row]:
    """Lines of a number and a name, or of names alone, which count from 1."""
    lines = _lines(path)
    matches = [_LINE.fullmatch(text) for _, text in lines]
    if not any(matches):
        return _counted([text for _, text in lines], str(path))
    rows = []
    for (number, text), match in zip(lines, matches):
        if match is None:
            raise ValueError(f"{path}, line {number}: {shorten(text)} is no number and name")
        rows.append(("", int(match[1]), match[2].strip()))
    return rows


def _counted(names: Sequence[Any], label: str) -> list[Row]:
    """Names from 1, or from 0 if the first is the background."""
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"{label} has {shorten(wrong[0])}, which is no name")
    start = 0 if names and names[0].lower() in _BACKGROUND else 1
    return [("", number, name) for number, name in enumerate(names, start)]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error.reason})") from error
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]
