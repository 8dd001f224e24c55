"""YOLO's segmentation format: a data.yaml, and a text file an image with a polygon a line.

As Ultralytics reads it: https://docs.ultralytics.com/datasets/segment/
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.coco_folder import SPLIT_WORDS, SPLITS
from ..data.image_check import with_slashes
from ..data.mask_bounds import shorten
from ..yaml_files import load_local_yaml
from .image_files import files_below, folder_name, images_below, is_image
from .labels import Item, LabelledObject, Layout, is_class_name
from .problems import BAD_FILE, BAD_VALUE, NO_IMAGE, NO_MASK, NO_TEST, UNKNOWN_CLASS, Problems

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "labels/classes.txt")  # of tools that write no data.yaml
_TOLERANCE = 1e-3  # beyond 0 and 1, of tools that round
_MIN_NUMBERS = 6  # of a polygon: three points


def is_yolo(folder: Path) -> bool:
    return _find_yaml(folder) is not None or bool(_names_file(folder))


def find_layout(data: str, problems: Problems) -> Layout:
    """The images of a data.yaml, or of a folder with one.

    Raises:
        FileNotFoundError: a folder that it names does not exist.
        ValueError: it is malformed. One line.
    """
    path = Path(data)
    yaml = _find_yaml(path) if path.is_dir() else path
    if yaml:
        parts, classes = _read_yaml(yaml, problems)
    else:
        parts = {folder_name(path): images_below(path / "images")}
        names_file = path / _names_file(path)
        classes = dict(enumerate(_lines(names_file)))
        _check_names(list(classes.values()), str(names_file))
    items = {name: [_item(image) for image in dict.fromkeys(x)] for name, x in parts.items()}
    _find_lost_labels([item for part in items.values() for item in part], problems)

    def read(item: Item, height: int, width: int) -> Iterator[LabelledObject]:
        return _read_labels(item, height, width, classes, problems)

    return Layout(items, list(classes.values()), read)


def _find_yaml(folder: Path) -> Path | None:
    """The data.yaml of a folder, whatever its name is.

    Raises:
        ValueError: several files may be meant.
    """
    for name in _YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = [x for x in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))) if _is_data(x)]
    if len(found) > 1:
        raise ValueError(f"{folder} has {', '.join(map(str, found[:8]))}; name one of them as DATA")
    return found[0] if found else None


def _is_data(path: Path) -> bool:
    try:
        content = load_local_yaml(str(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "names" in content and any(x in content for x in SPLITS)


def _names_file(folder: Path) -> str:
    texts = files_below(folder / "labels", (".txt",)) if (folder / "images").is_dir() else []
    if all(os.path.basename(path) == "classes.txt" for path in texts):
        return ""  # label images have such a file as well
    return next((name for name in _NAMES if (folder / name).is_file()), "")


def _read_yaml(path: Path, problems: Problems) -> tuple[dict[str, list[str]], dict[int, str]]:
    """The images of each part, and the classes by their numbers."""
    content = load_local_yaml(str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a data.yaml: it is no mapping of keys to values")
    if "kpt_shape" in content:
        raise ValueError(f"{path} has 'kpt_shape': it is of keypoints, which have no masks")
    classes = _classes_of(content, str(path))
    parts = {}
    for key, words in SPLIT_WORDS.items():
        places = next((content[word] for word in words if content.get(word)), None)
        if not places:
            continue
        listed = places if isinstance(places, list) else [places]
        if not all(isinstance(place, str) and place for place in listed):
            raise ValueError(f"{path}: {key} is {shorten(places)}, which must be a folder")
        try:
            parts[key] = [x for place in listed for x in _images_at(place, content, path, key)]
        except FileNotFoundError as error:
            if key != "test" or not parts:
                raise
            problems.add(NO_TEST, str(path), str(error).removeprefix(f"{path}: "))
    if not parts:
        raise ValueError(f"{path} has neither train nor val, a folder of images")
    return parts, classes


def _classes_of(content: dict[str, Any], label: str) -> dict[int, str]:
    names = content.get("names")
    if not isinstance(names, (list, dict)) or not names:
        raise ValueError(f"{label}: names is {shorten(names)}, which must be a list of names")
    names = dict(enumerate(names)) if isinstance(names, list) else _numbered(names)
    if not all(type(number) is int and number >= 0 for number in names):
        raise ValueError(f"{label}: the keys of names are {shorten(list(names))}, not numbers")
    # yaml's numbers are meant as names; what it takes for yes and no is not known any more
    texts = {x: str(name) if type(name) in (int, float) else name for x, name in names.items()}
    _check_names(list(texts.values()), label)
    count = content.get("nc", len(texts))
    if count != len(texts):
        raise ValueError(f"{label}: nc is {shorten(count)}, but names has {len(texts)} names")
    return dict(sorted(texts.items()))


def _numbered(names: dict[Any, Any]) -> dict[Any, Any]:
    """With numbers for digits in quotes, unless two would be one."""
    numbered = {_number_of(key): name for key, name in names.items()}
    return numbered if len(numbered) == len(names) else names


def _number_of(key: Any) -> Any:
    is_number = isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10
    return int(key) if is_number else key


def _check_names(names: list[Any], label: str) -> None:
    for index, name in enumerate(names):
        if not is_class_name(name):
            advice = "; put it in quotes" if isinstance(name, bool) else ""
            raise ValueError(
                f"{label}: the name of class {index} is {shorten(name)}, which must be a line of"
                f" text without spaces at its ends{advice}"
            )
        if name in names[:index]:
            raise ValueError(f"{label}: two classes have the name {shorten(name)}; rename one")
    if not names:
        raise ValueError(f"{label} has no names of classes")


def _images_at(place: str, content: dict[str, Any], yaml: Path, key: str) -> list[str]:
    """The images in a folder, or in a list of files, that data.yaml names."""
    base, path = with_slashes(str(content.get("path") or "")), Path(with_slashes(place))
    tops = [yaml.parent / base, *([Path(base)] if base else []), yaml.parent]
    candidates = [top / path for top in tops]
    if path.parts[:1] == ("..",):  # Roboflow writes paths of a folder beside
        candidates += [top / Path(*path.parts[1:]) for top in tops]
    for candidate in candidates:
        if candidate.is_dir():
            return images_below(candidate)
        if candidate.is_file() and not is_image(candidate.name):
            return _listed(candidate, tops)
    raise FileNotFoundError(f"{yaml}: {key} names {place}, but there is no {candidates[0]}")


def _listed(path: Path, tops: list[Path]) -> list[str]:
    """The images that a text file names, relative to its folder or to that of the data."""
    images = []
    for line in filter(None, _lines(path)):
        candidates = [top / with_slashes(line) for top in (path.parent, *tops)]
        images.append(str(next((x for x in candidates if x.is_file()), candidates[0])))
    return images


def _lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error.reason})") from error
    return [line.strip() for line in text.rstrip().split("\n")]


def _item(image: str) -> Item:
    """With the text file in "labels" in place of the last "images" in the path."""
    parts = list(Path(image).parts)
    positions = [x for x, part in enumerate(parts[:-1]) if part == "images"]
    if positions:
        parts[positions[-1]] = "labels"
    labels = str(Path(*parts).with_suffix(".txt"))
    return Item(image, (labels,) if os.path.isfile(labels) else ())


def _find_lost_labels(items: list[Item], problems: Problems) -> None:
    """Say which text files no image belongs to; an image without one has no objects.

    Images beside those that a list names count as well.
    """
    known = {Path(label): Path(item.image).parent for item in items for label in item.labels}
    stems: dict[Path, set[str]] = defaultdict(set)
    for folder, images in {(label.parent, images) for label, images in known.items()}:
        stems[folder] |= {path.stem for path in images.glob("*") if is_image(path.name)}
    for folder, own in sorted(stems.items()):
        for path in sorted(folder.glob("*.txt")):
            is_other = path.name == "classes.txt" or path.name.startswith(".")
            if not (is_other or path in known or path.stem in own or _is_list(path)):
                problems.add(NO_IMAGE, str(path), "no image has this name")


def _is_list(path: Path) -> bool:
    """Whether a text file names images, as train.txt beside them does."""
    try:
        return is_image(_lines(path)[0])
    except (OSError, ValueError):
        return False


def _read_labels(
    item: Item, height: int, width: int, classes: dict[int, str], problems: Problems
) -> Iterator[LabelledObject]:
    for path in item.labels:
        try:
            lines = _lines(Path(path))
        except (OSError, ValueError) as error:
            problems.add(BAD_FILE, path, str(error), item.image)
            continue
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            where = f"line {number}"
            found = _find_problem(words, classes)
            if found:
                kind, message = found
                problems.add(kind, path, f"{where} {message}", item.image)
                continue
            sides = (width, height)
            # Behind four digits lies what files of six or eight digits have rounded.
            polygon = [round(float(x) * sides[i % 2], 4) for i, x in enumerate(words[1:])]
            yield LabelledObject(classes[int(float(words[0]))], [polygon], path, where)


def _find_problem(words: list[str], classes: dict[int, str]):
    """The kind of problem that a line has, and what it is; None for none."""
    try:
        index, *coordinates = map(float, words)
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        return BAD_VALUE, f"has {shorten(wrong)}, which is no number"
    if not (index.is_integer() and int(index) in classes):
        known = f"{min(classes)} to {max(classes)}"
        return UNKNOWN_CLASS, f"has the class {words[0]}, of which there is no name ({known})"
    if len(coordinates) == 4:
        return NO_MASK, "is a box (4 numbers), not a polygon"
    if len(coordinates) < _MIN_NUMBERS or len(coordinates) % 2:
        count = len(coordinates)
        return BAD_VALUE, f"has {count} numbers behind the class, which must be pairs, 3 or more"
    for word, value in zip(words[1:], coordinates):
        if not (math.isfinite(value) and -_TOLERANCE <= value <= 1 + _TOLERANCE):
            return BAD_VALUE, f"has the coordinate {word}, which must be from 0 to 1"
    return None


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word)) or True
    except ValueError:
        return False
