"""Finds what belongs together in folders of data sets: COCO's JSON files and their images."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..json_files import read_json

_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # of COCO
_FOR_EVALUATION = ("val", "valid", "validation")
_MAX_JSON_BYTES = 200_000_000  # of files that nobody named


def find_data(data: str) -> tuple[str, str]:
    """The annotation file and the image folder of a data set to evaluate on.

    Args:
        data: JSON:IMAGE_FOLDER; or a folder with one *.json, itself or in "annotations", of which
            that for validation is taken if there are several; or such a *.json itself.

    Raises:
        FileNotFoundError: there is no such file or folder, or the images are not found. One line.
        ValueError: which of several files is meant is not clear.
    """
    if os.path.isfile(data):
        return data, _find_images(Path(data), Path(data).parent)
    if os.path.isdir(data):
        chosen = _choose(data, _json_files(Path(data)))
        return str(chosen), _find_images(chosen, Path(data))
    json_file, _, folder = data.rpartition(":")
    if not json_file.lower().endswith(".json"):
        raise FileNotFoundError(
            f"{data} is neither a folder nor JSON:IMAGE_FOLDER (working directory {os.getcwd()})"
        )
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"there is no file {json_file} (working directory {os.getcwd()})")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder} (working directory {os.getcwd()})")
    return json_file, folder


def _json_files(folder: Path) -> list[Path]:
    """Those in the folder, in "annotations", and in folders of parts, as Roboflow has them."""
    found = [*folder.glob("*.json"), *folder.glob("annotations/*.json")]
    found += folder.glob("*/_annotations.coco.json")
    return sorted(x for x in found if x.is_file() and not x.name.startswith(_OTHER_TASKS))


def _choose(data: str, files: Sequence[Path]) -> Path:
    if not files:
        raise FileNotFoundError(f"{data} has no *.json, nor has {data}/annotations")
    chosen = list(files)
    if len(files) > 1:
        chosen = [x for x in files if any(word in _words(x) for word in _FOR_EVALUATION)]
    if len(chosen) != 1:
        names = ", ".join(str(path) for path in files[:8])
        raise ValueError(f"{data} has {names}; name one as JSON:IMAGE_FOLDER")
    return chosen[0]


def _words(path: Path) -> list[str]:
    """The words in a file's name, and its folder's; of "instances_val2017" "val" is one."""
    parent = path.parent.name if path.name == "_annotations.coco.json" else ""
    text = f"{path.stem}_{parent}".lower().replace("-", "_").replace(".", "_")
    return [word.rstrip("0123456789") for word in text.split("_")]


def _find_images(json_file: Path, root: Path) -> str:
    """The folder in which the first image of the file is."""
    content = read_json(str(json_file))
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise ValueError(f"{json_file} has no list 'images'; COCO's format needs one")
    name = str(images[0].get("file_name"))
    for folder in _image_folders(json_file, root):
        if (folder / name).is_file():
            return str(folder)
    raise FileNotFoundError(
        f"the first image of {json_file}, {name[:200]}, is in none of the folders of {root}; name"
        " its folder: JSON:IMAGE_FOLDER"
    )


def _image_folders(json_file: Path, root: Path) -> Iterator[Path]:
    part = json_file.stem.removeprefix("instances_")
    for top in dict.fromkeys([root, json_file.parent, json_file.parent.parent]):
        yield from (top / part, top / "images" / part, top / "images", top)
    yield from sorted(path for path in root.glob("*") if path.is_dir())


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
