"""Finds what belongs together in folders of data sets: COCO's JSON files and their images."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..json_files import read_head, read_json
from .image_check import with_slashes

_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # of COCO
_MAX_JSON_BYTES = 200_000_000  # of files that nobody named
_LISTS = re.compile(r'"(images|annotations)"\s*:\s*\[\s*([{\]]|\Z)')  # of objects, or empty
_CATEGORIES = re.compile(r'"categories"\s*:\s*\[')  # which label tools write alone as well
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')  # of LabelMe
_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)+")')
_NUM_NAMES = 100  # of images that are looked for
_HEAD = 1_000_000  # bytes of a JSON in which their names mostly are
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLITS = tuple(SPLIT_WORDS)
RUN_FILE = "recipe.json"  # in a folder of `queryinst train`, whose other JSON files are no data


def find_coco(data: str) -> list[tuple[str, str, str]]:
    """The annotation files of a data set in COCO's format, and their images' folders.

    Args:
        data: JSON:IMAGE_FOLDER; a *.json; or a folder with such files in it, in "annotations", or
            in folders for parts, as Roboflow has them.

    Returns:
        (name, JSON file, image folder) each: the name is "train", "val" or "test", of which there
        is one at most; if there is one file, its own or the folder's. None of a folder without.

    Raises:
        FileNotFoundError: there is no such file or folder, or the images are not found. One line.
        ValueError: which of several files is meant is not clear.
    """
    if os.path.isfile(data):
        path = Path(data)
        return [(_split_of(path) or _own_name(path), data, _find_images(path, path.parent))]
    if os.path.isdir(data):
        return [
            (name, str(path), _find_images(path, Path(data)))
            for name, path in _named(data, _coco_files(Path(data))).items()
        ]
    json_file, _, folder = data.rpartition(":")
    if not json_file.lower().endswith(".json"):
        raise FileNotFoundError(
            f"{data} is neither a folder nor JSON:IMAGE_FOLDER (working directory {os.getcwd()})"
        )
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"there is no file {json_file} (working directory {os.getcwd()})")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder} (working directory {os.getcwd()})")
    return [(_split_of(Path(json_file)) or _own_name(Path(json_file)), json_file, folder)]


def has_coco(folder: str) -> bool:
    """Whether `find_coco` finds annotation files in a folder."""
    return bool(_coco_files(Path(folder)))


def split_name(words: str) -> str:
    """ "train", "val" or "test" if one of them is a word of a file's or folder's name; else ""."""
    parts = [x.rstrip("0123456789") for x in re.split(r"[^a-z0-9]+", words.lower())]
    found = [split for split, names in SPLIT_WORDS.items() if any(name in parts for name in names)]
    return found[0] if len(found) == 1 else ""


def _coco_files(folder: Path) -> list[Path]:
    """Those in the folder and in "annotations"; if there are none, those in its other folders."""
    for patterns in (("*.json", "annotations/*.json", "*/_annotations.coco.json"), ("*/*.json",)):
        found = sorted(x for pattern in patterns for x in folder.glob(pattern))
        files = [x for x in found if x.is_file() and not x.name.startswith(_OTHER_TASKS)]
        files = [x for x in files if not is_run(x.parent)]
        if coco := [x for x in files if _is_coco(x)]:
            return coco
    return []


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is the output of `queryinst train`."""
    path = os.path.join(folder, RUN_FILE)
    try:
        content = read_json(path, dict) if os.path.isfile(path) else {}
    except (OSError, ValueError):
        return False
    return "version" in content and set(content) <= {"version", "request", "keys"}


def _is_coco(path: Path) -> bool:
    """Whether a file is of COCO's format by its name or its beginning."""
    head = read_head(str(path))
    if _LISTS.search(head):
        return True
    if _is_named(path):
        return not _SHAPES.search(head)
    is_whole = path.stat().st_size <= len(head.encode())
    return not is_whole and bool(_CATEGORIES.search(head))


def _is_named(path: Path) -> bool:
    """Whether a file is of COCO's format by its name, so that a damaged one is not passed over."""
    if path.name == "_annotations.coco.json" or path.name.startswith("instances_"):
        return True
    return path.parent.name == "annotations" and _is_plain(path)


def _named(data: str, files: Sequence[Path]) -> dict[str, Path]:
    """The files by their parts; where there are more, "train.json" rather than "train_50.json"."""
    if len(files) == 1:
        split = _split_of(files[0], Path(data))
        return {split or os.path.basename(os.path.abspath(data)): files[0]}
    for chosen in (files, [path for path in files if _is_plain(path)]):
        named = {_split_of(path, Path(data)): path for path in chosen}
        if named and "" not in named and len(named) == len(chosen):
            return {split: named[split] for split in SPLITS if split in named}
    if files:
        names = ", ".join(str(path) for path in files[:8])
        raise ValueError(f"{data} has {names}; name one as JSON:IMAGE_FOLDER")
    return {}


def _split_of(path: Path, root: Path | None = None) -> str:
    """Of "instances_val2017.json" "val", as of "valid/_annotations.coco.json"."""
    parent = path.parent.name if path.parent != root else ""
    return split_name(path.stem) or split_name("" if parent == "annotations" else parent)


def _is_plain(path: Path) -> bool:
    """Whether a file has the name of a part, a year maybe, and nothing else."""
    return any(_own_name(path).rstrip("0123456789") in names for names in SPLIT_WORDS.values())


def _own_name(path: Path) -> str:
    return path.stem.removeprefix("instances_")


def _find_images(json_file: Path, root: Path) -> str:
    """The folder in which most of the file's first images are."""
    names = _first_names(json_file)
    found = {}
    for folder in dict.fromkeys(_image_folders(json_file, root)):
        found[folder] = sum(_is_there(folder, name) for name in names)
        if found[folder] == len(names):
            break
    best = max(found, key=lambda folder: found[folder])  # the first of several
    if not found[best]:
        raise FileNotFoundError(
            f"the first image of {json_file}, {names[0][:200]}, is in none of the folders of"
            f" {root}; name its folder: JSON:IMAGE_FOLDER"
        )
    return str(best)


def _is_there(folder: Path, name: str) -> bool:
    """Whether an image is in a folder; names as Windows has them are for a check to complain of."""
    return os.path.isfile(folder / name) or os.path.isfile(folder / with_slashes(name))


def _first_names(json_file: Path) -> list[str]:
    found = _FILE_NAME.findall(read_head(str(json_file), _HEAD))[:_NUM_NAMES]
    try:
        names = [json.loads(text) for text in found]
    except ValueError:
        names = []
    if not names:
        content = read_json(str(json_file))
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list) or not images or not isinstance(images[0], dict):
            raise ValueError(f"{json_file} has no list 'images'; COCO's format needs one")
        names = [str(images[0].get("file_name"))]
    return [name for name in names if "\0" not in name] or [""]


def _image_folders(json_file: Path, root: Path) -> Iterator[Path]:
    part = json_file.stem.removeprefix("instances_")
    for top in dict.fromkeys([root, json_file.parent, json_file.parent.parent]):
        yield from (top / part, top / "images" / part, top / "images", top)
    for top in (root, json_file.parent):
        yield from sorted(path for path in top.glob("*") if path.is_dir())


def find_image_ids(paths: Sequence[str]) -> tuple[str, list[tuple[Any, str]]]:
    """The ids and names of images in a COCO JSON that is beside them and has all of them.

    Args:
        paths: of image files.

    Returns:
        The JSON's path, and (id, file_name) in the order of `paths`; or "" and [].
    """
    folders = {Path(path).absolute().parent for path in paths}
    if len(folders) != 1:
        return "", []
    for json_file in _json_files_beside(folders.pop()):
        by_name = _images_by_name(json_file)
        images = [by_name.get(os.path.basename(path)) for path in paths]
        known = [image for image in images if image is not None]
        if len({image_id for image_id, _ in known}) == len(paths):
            return str(json_file), known
    return "", []


def _json_files_beside(folder: Path) -> list[Path]:
    """Those that may be of a folder of images; first those that have its name."""
    found = [*folder.glob("*.json"), *folder.parent.glob("*.json")]
    for top in (folder, folder.parent, folder.parent.parent):
        found += sorted(top.glob("annotations/*.json"))
    files = [x for x in dict.fromkeys(found) if not x.name.startswith(_OTHER_TASKS)]
    files.sort(key=lambda x: x.stem.removeprefix("instances_") != folder.name)
    return [x for x in files if x.is_file() and x.stat().st_size <= _MAX_JSON_BYTES]


def _images_by_name(json_file: Path) -> dict[str, tuple[Any, str] | None]:
    """(id, file_name) of a file's images by their names without folders; {} for another file.

    None where two have the same name.
    """
    try:
        content = read_json(str(json_file))
    except (OSError, ValueError):
        return {}
    images = content.get("images") if isinstance(content, dict) else None
    found: dict[str, tuple[Any, str] | None] = {}
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and isinstance(image.get("id"), (int, str, float)):
            file_name = str(image.get("file_name"))
            name = os.path.basename(file_name)
            found[name] = None if name in found else (image["id"], file_name)
    return found
