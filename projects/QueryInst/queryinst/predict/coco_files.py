"""COCO's JSON of predictions: results to evaluate, and annotations for annotation tools."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from queryinst_runtime.polygons import contours_of

from ..data.coco_folder import find_image_ids
from .inputs import IMAGE_SUFFIXES, Source
from .writers import Item, file_of


class ImageIds:
    """An id and a file name for each image, which stay the same from run to run.

    Those of an annotation file beside the images, if it has all of them. Else the number that is
    the file's name, as in COCO, if all have one of their own; else 1, 2, ... in the order of the
    images; and the path from the folder that holds all images. Frames of videos come behind.

    Attributes:
        origin: the annotation file, or "".
    """

    def __init__(self, sources: Sequence[Source]):
        stills = [source for source in sources if not source.is_video]
        images = [x for x in stills if x.is_local and x.path.lower().endswith(IMAGE_SUFFIXES)]
        images = [x for x in images if os.path.isfile(x.name)]
        self.origin, known = find_image_ids([source.name for source in images])
        if not known:
            known = [*zip(_numbers_of(images), _names_of(images))]
        self._known: dict[Source, tuple[Any, str]] = dict(zip(images, known))
        self._last = max((x for x, _ in known if isinstance(x, int)), default=0)
        for source in stills:
            if source not in self._known:
                self._known[source] = self._next(), os.path.basename(source.path)

    def of(self, item: Item) -> tuple[Any, str]:
        """The id and the file name; of a video's frame the next free number, and its picture's."""
        if item.frame.number is None:
            return self._known[item.frame.source]
        return self._next(), file_of(item, Path(), ".jpg").as_posix()

    def _next(self) -> int:
        self._last += 1
        return self._last


def _numbers_of(images: Sequence[Source]) -> list[int]:
    stems = [Path(source.name).stem for source in images]
    numbers = [int(x) for x in stems if x.isascii() and x.isdigit() and len(x) < 16]
    return numbers if len(set(numbers)) == len(images) else [*range(1, len(images) + 1)]


def _names_of(images: Sequence[Source]) -> list[str]:
    paths = [os.path.abspath(source.name) for source in images]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [Path(os.path.relpath(path, root)).as_posix() for path in paths]


class CocoWriter:
    """results.json and annotations.json, written bit by bit.

    results.json is what pycocotools' `loadRes` reads beside the data set's own annotations.
    annotations.json is a data set of its own, with polygons, for tools that take those as drafts to
    be corrected. Objects without a single pixel are left out there: they have no polygon.
    """

    def __init__(self, folder: Path, sources: Sequence[Source]):
        """
        Raises:
            ImportError: OpenCV, which makes polygons, is not installed.
        """
        contours_of(0, 0, np.zeros((0, 0), bool))
        self.ids = ImageIds(sources)
        self._results = _List(folder / "results.json", "[", "]\n")
        self._annotations = _List(folder / "annotations.json", '{"annotations": [', "],\n")
        self._categories: dict[int, str] = {}
        self._images: list[dict[str, Any]] = []

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return [self._results.path, self._annotations.path]

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        image_id, name = self.ids.of(item)
        height, width = item.result.image_size
        image = {"id": image_id, "file_name": name, "width": width, "height": height}
        self._images.append(image)
        if not self._categories:
            names = item.result.class_names
            ids = item.result.category_ids or range(1, len(names) + 1)
            self._categories = dict(zip(ids, names))
        for index, entry in enumerate(item.result.to_coco(image_id)):
            self._results.add(entry)
            self._categories.setdefault(entry["category_id"], item.result.names[index])
            annotation = {**entry, "id": self._annotations.count + 1, "iscrowd": 0}
            if item.result.has_masks:
                outlines = contours_of(*item.result.crop(index))
                annotation["segmentation"] = [outline.ravel().tolist() for outline in outlines]
                if not outlines:
                    continue
            self._annotations.add(annotation)

    def close(self) -> None:
        """As `Writer.close`."""
        self._results.close()
        categories = [{"id": key, "name": name} for key, name in self._categories.items()]
        rest = {"info": {}, "licenses": [], "categories": categories, "images": self._images}
        self._annotations.close(f"{json.dumps(rest)[1:]}\n")


class _List:
    """A list in a JSON file, whose items are written as they come."""

    def __init__(self, path: Path, start: str, end: str):
        self.path, self.count = path, 0
        self._start, self._end = start, end
        self._file: Any = None

    def add(self, item: Any) -> None:
        self._write(f"{',' if self.count else ''}\n{json.dumps(item)}")
        self.count += 1

    def close(self, rest: str = "") -> None:
        self._write(f"\n{self._end}{rest}")
        self._file.close()

    def _write(self, text: str) -> None:
        if self._file is None:
            self._file = open(self.path, "w", encoding="utf-8")
            self._file.write(self._start)
        self._file.write(text)
