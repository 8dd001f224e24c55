"""A data set in memory: its parts, images and objects, with one list of classes."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tqdm import tqdm

from ..config import MAX_PIXELS
from ..data.checks import raise_errors
from ..data.coco_check import CocoContent, check_coco_content
from ..data.findings import Findings
from ..data.image_check import ImageEntry, check_image_files
from ..data.set_checks import Use
from ..json_files import read_json
from .image_files import num_workers
from .sources import Split

_KEPT = ("info", "licenses")  # of COCO's format, where all parts have the same


class Photo(NamedTuple):
    """An image with its objects.

    Attributes:
        path: of its file.
        record: as in "images" of COCO's format.
        annotations: as in "annotations"; "category_id" is the place in `Content.classes`.
    """

    path: str
    record: dict[str, Any]
    annotations: list[dict[str, Any]]


@dataclass
class Content:
    """A data set."""

    classes: list[str]
    parts: dict[str, list[Photo]]
    extras: dict[str, Any] = field(default_factory=dict)  # COCO's other keys

    @property
    def photos(self) -> list[Photo]:
        return [photo for part in self.parts.values() for photo in part]


def load_content(splits: Sequence[Split], *, is_test_annotated: bool = False) -> Content:
    """Read the JSON files of all parts; categories of one name are one class.

    Classes are in the order of the first part's category ids, then those that the others add.

    Args:
        is_test_annotated: "test" needs annotations as the others do. Otherwise it may have none, as
            COCO's own, and is a part without objects.

    Raises:
        ValueError, OSError: a file is missing, or not in COCO's format. One line.
    """
    contents, others = zip(*(_read(split, is_test_annotated) for split in splits))
    names = [_names_of(content) for content in contents]
    classes = list(dict.fromkeys(name for part in names for name in part.values()))
    extras = {k: v for k, v in others[0].items() if all(x.get(k) == v for x in others)}
    parts = {
        split.name: _photos_of(split, content, {x: classes.index(y) for x, y in ids.items()})
        for split, content, ids in zip(splits, contents, names)
    }
    return Content(classes, parts, extras)


def count_objects(photos: Iterable[Photo], num_classes: int) -> list[int]:
    """Objects of each class; crowds do not count."""
    counts = Counter(
        annotation["category_id"]
        for photo in photos
        for annotation in photo.annotations
        if not annotation.get("iscrowd", 0)
    )
    return [counts[index] for index in range(num_classes)]


def check_photos(content: Content) -> None:
    """Hold the sizes of image files, of which headers are read, against their records'.

    Raises:
        ValueError, OSError: an image is missing, damaged, turned, or of another size. One line.
    """
    findings = Findings()
    with tqdm(total=len(content.photos), unit="image", disable=None, leave=False) as bar:
        for name, photos in content.parts.items():
            facts = check_image_files(
                [_entry(photo) for photo in photos],
                pixels=False,
                workers=num_workers(),
                findings=findings,
                source=name,
                progress=bar.update,
            )
            deque(facts, maxlen=0)
    raise_errors(findings)


def _entry(photo: Photo) -> ImageEntry:
    record = photo.record
    return ImageEntry(photo.path, record["width"], record["height"], file_name=record["file_name"])


def _read(split: Split, is_test_annotated: bool) -> tuple[CocoContent, dict[str, Any]]:
    """What is checked, and the other keys."""
    content = read_json(split.json_file, dict)
    if split.name == "test" and not is_test_annotated:
        content.setdefault("annotations", [])
    findings = Findings()
    use = Use(False, False, False, None, 100, 0, MAX_PIXELS)
    root = split.image_root
    checked = check_coco_content(content, split.json_file, root, findings=findings, use=use)
    raise_errors(findings)
    assert checked is not None
    return checked, {key: content[key] for key in _KEPT if key in content}


def _names_of(content: CocoContent) -> dict[Any, str]:
    return dict(zip(sorted(content.categories), content.thing_classes))


def _photos_of(split: Split, content: CocoContent, classes: dict[Any, int]) -> list[Photo]:
    photos = {
        id_: Photo(os.path.join(split.image_root, record["file_name"]), record, [])
        for id_, record in content.images.items()
    }
    for annotation in content.annotations:
        own = {**annotation, "category_id": classes[annotation["category_id"]]}
        photos[annotation["image_id"]].annotations.append(own)
    return list(photos.values())
