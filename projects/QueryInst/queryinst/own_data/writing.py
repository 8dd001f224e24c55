"""Writes a data set as a folder in COCO's or YOLO's format."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..data.coco_folder import SPLITS
from .contents import Content, Photo, check_photos
from .folders import new_folder
from .outlines import one_polygon
from .places import coco_places, yolo_places
from .sources import Split, write_json

_DIGITS = 8  # behind the point, of YOLO's coordinates


def write_content(content: Content, target: str, format: str, *, link: bool = False) -> list[str]:
    """Write a data set into a new folder.

    Args:
        target: the folder; what is there is replaced.
        format: "coco": annotations/train.json and the images in train/, and so on; or "yolo":
            data.yaml, images/train/ and labels/train/.
        link: to the images, instead of copying them.

    Returns:
        What the format cannot hold, in a line each.

    Raises:
        OSError: an image is missing, or there is no room. One line.
        ValueError: the format cannot hold the data, the target holds an image, maybe by a link, or
            an image cannot be read or is not of the size that its masks are. One line.
    """
    top = os.path.join(os.path.realpath(target), "")
    for photo in content.photos:
        if os.path.realpath(photo.path).startswith(top):
            raise ValueError(
                f"{target} would replace {photo.path}, which is read; name another folder"
            )
    check_photos(content)
    write = {"coco": _write_coco, "yolo": _write_yolo}[format]
    with new_folder(target) as folder:
        return write(content, folder, _bring(link))


def _bring(link: bool) -> Callable[[str, Path], None]:
    def bring(path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(os.path.realpath(path))
        else:
            shutil.copyfile(path, target)

    return bring


def _write_coco(content: Content, folder: Path, bring: Callable[[str, Path], None]) -> list[str]:
    (folder / "annotations").mkdir()
    for name, photos in content.parts.items():
        records: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for photo, place in coco_places(photos):
            bring(photo.path, folder / name / place)
            record = {**photo.record, "id": len(records) + 1, "file_name": str(place)}
            if "licenses" not in content.extras:
                record.pop("license", None)  # which counts in a list that is not there
            records.append(record)
            for annotation in photo.annotations:
                ids = {"id": len(annotations) + 1, "image_id": record["id"]}
                category_id = annotation["category_id"] + 1
                annotations.append({**annotation, **ids, "category_id": category_id})
        whole = {
            **content.extras,
            "images": records,
            "annotations": annotations,
            "categories": [{"id": i, "name": x} for i, x in enumerate(content.classes, start=1)],
        }
        write_json(folder / "annotations" / f"{name}.json", whole)
    return []


def _write_yolo(content: Content, folder: Path, bring: Callable[[str, Path], None]) -> list[str]:
    names = list(content.parts)
    if len(names) == 1 and names[0] not in SPLITS:
        content = Content(content.classes, {"train": content.photos})
    elif strange := [name for name in names if name not in SPLITS]:
        raise ValueError(f"YOLO's data.yaml has train, val and test, not {strange[0]!r}")
    lost: Counter[str] = Counter()
    for name, photos in content.parts.items():
        for photo, place in yolo_places(photos):
            bring(photo.path, folder / "images" / name / place)
            labels = folder / "labels" / name / place.with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("".join(_yolo_lines(photo, lost)))
    about: dict[str, Any] = {name: f"images/{name}" for name in content.parts}
    about |= {"nc": len(content.classes), "names": dict(enumerate(content.classes))}
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return [f"{what}: {count}" for what, count in lost.items() if count]


def _yolo_lines(photo: Photo, lost: Counter[str]) -> list[str]:
    """A line for each object; counts what is lost."""
    height, width = photo.record["height"], photo.record["width"]
    lines = []
    for annotation in photo.annotations:
        if annotation.get("iscrowd", 0):
            lost["crowds are left out, which YOLO's format does not have"] += 1
            continue
        segmentation = annotation.get("segmentation") or []
        polygon, has_lost_holes = one_polygon(segmentation, height, width)
        if not polygon:
            lost["objects are left out that have no pixel of a mask"] += 1
            continue
        lost["objects have lost their holes, which YOLO's polygons cannot have"] += has_lost_holes
        sides = [side / (height if i % 2 else width) for i, side in enumerate(polygon)]
        numbers = [f"{side:.{_DIGITS}f}".rstrip("0").rstrip(".") for side in sides]
        lines.append(f"{annotation['category_id']} {' '.join(numbers)}\n")
    return lines


def sources_of(splits: Sequence[Split]) -> list[str]:
    """The files and folders that are read."""
    return [path for split in splits for path in (split.json_file, split.image_root)]
