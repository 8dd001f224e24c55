"""The annotated objects on a sample of a data set's images, and on the first of each problem."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from ..config import MAX_PIXELS
from ..data.findings import Finding
from ..data.images import read_image
from ..data.instance_checks import find_box_problem
from ..data.mask_bounds import is_integer, shorten, to_rle
from ..json_files import parse_json, without_garbage_collection
from ..report.pictures import COLOURS, EXTRA_COLOUR, IGNORED_COLOUR, draw_objects
from .check import CheckResult
from .check_text import printable
from .sources import Split

NUM_SAMPLES = 8  # images of a part
_BOX_COLOUR = COLOURS[1]  # of what is wrong, beside its mask in red
_MAX_LABEL = 24  # characters
_MAX_LABELS = 30  # of a picture; with more objects, only what is wrong has one
_MAX_BLANK = 4_000_000  # pixels of what stands for an image that cannot be read
_MAX_OBJECTS, _MAX_DRAWN = 200, 2_000_000_000  # of a picture; and that times its pixels
_GRAY = 128

Item = dict[str, Any]


class Picture(NamedTuple):
    """
    Attributes:
        pixels: (H, W, 3) RGB.
    """

    pixels: np.ndarray
    caption: str


class Pictures(NamedTuple):
    """
    Attributes:
        samples: by the part's name.
        problems: by the kind's name.
    """

    samples: dict[str, list[Picture]]
    problems: dict[str, list[Picture]]


def draw_pictures(result: CheckResult) -> Pictures:
    """Read the annotation files once more, and draw; what cannot be drawn is left out."""
    pictures = Pictures(defaultdict(list), defaultdict(list))
    for split in result.splits:
        part = _Part.read(split)
        if part is None:
            continue
        for image in part.sample():
            if picture := part.draw(image):
                pictures.samples[split.name].append(picture)
        for group in result.findings.groups():
            for finding in group.examples:
                if finding.source == split.json_file and (picture := part.draw_finding(finding)):
                    pictures.problems[group.kind.name].append(picture)
    return pictures


class _Part:
    """What of an annotation file can be drawn, whatever else is in it."""

    def __init__(self, split: Split, content: Item):
        self.root = Path(split.image_root)
        self.images = [x for x in _items(content, "images") if isinstance(x.get("file_name"), str)]
        self.annotations = content.get("annotations")
        categories = _items(content, "categories")
        self.names = {_key(x.get("id")): _text(x.get("name")) for x in categories}
        self.by_image: dict[Any, list[Item]] = defaultdict(list)
        for annotation in _items(content, "annotations"):
            self.by_image[_key(annotation.get("image_id"))].append(annotation)

    @classmethod
    def read(cls, split: Split) -> "_Part | None":
        try:
            with without_garbage_collection():
                text = Path(split.json_file).read_text(encoding="utf-8-sig")
                return cls(split, parse_json(text, split.json_file, dict))
        except (OSError, ValueError):  # which is among the problems
            return None

    def sample(self) -> list[Item]:
        """Images with objects at equal distances, the first and the last among them."""
        found = [x for x in self.images if _key(x.get("id")) in self.by_image]
        places = np.linspace(0, len(found) - 1, min(NUM_SAMPLES, len(found)))
        return [found[place] for place in places.round().astype(int)]

    def draw_finding(self, finding: Finding) -> Picture | None:
        """The image of a problem, and its annotation in red."""
        same_id = (x for x in self.images if _key(x.get("id")) == _key(finding.image_id))
        same_name = (x for x in self.images if x["file_name"] == finding.file_name)
        found = same_id if finding.image_id is not None else same_name
        image = next((x for x in found if finding.file_name in ("", x["file_name"])), None)
        if image is None:
            return None
        wrong = None
        if finding.position >= 0 and isinstance(self.annotations, list):
            wrong = self.annotations[finding.position]
        return self.draw(image, wrong, finding.message, in_colours=False)

    def draw(
        self, image: Item, wrong: Any = None, caption: str = "", *, in_colours: bool = True
    ) -> Picture | None:
        """An image with its annotations.

        Args:
            wrong: the annotation that is drawn in red, its mask and its box.
            caption: None for the file's name and the number of annotations.
        """
        pixels, remark = self._pixels(image)
        if pixels is None:
            return None
        annotations = self.by_image[_key(image.get("id"))]
        limit = min(_MAX_OBJECTS, _MAX_DRAWN // pixels[..., 0].size)
        objects, colours, labels = [], [], []
        for index, annotation in enumerate([x for x in annotations if x is not wrong][:limit]):
            for obj in _drawable(annotation, *pixels.shape[:2])[:1]:
                is_plain = not in_colours or bool(annotation.get("iscrowd"))
                objects.append(obj)
                colours.append(IGNORED_COLOUR if is_plain else COLOURS[index % len(COLOURS)])
                labels.append(self._label(annotation) if len(annotations) <= _MAX_LABELS else "")
        for obj in _drawable(wrong, *pixels.shape[:2]) if isinstance(wrong, dict) else ():
            objects.append(obj)
            colours.append(EXTRA_COLOUR if "segmentation" in obj else _BOX_COLOUR)
            labels.append(f"{self._label(wrong)} ({'mask' if 'segmentation' in obj else 'box'})")
        drawn = draw_objects(pixels, objects, colours, labels)
        more = len(annotations) - limit
        remark += f" ({more} more objects are not drawn)" if more > 0 else ""
        text = caption or f"{image['file_name']}: {len(annotations)} annotations"
        return Picture(drawn, f"{printable(text)}{remark}")

    def _pixels(self, image: Item) -> tuple[np.ndarray | None, str]:
        """Those of the file, or gray ones in their place; and a remark."""
        path = self.root / image["file_name"]
        try:
            if path.is_file():  # a pipe would never end
                return read_image(path, "RGB", MAX_PIXELS), ""
        except (OSError, ValueError):  # which is among the problems
            pass
        height, width = image.get("height"), image.get("width")
        if not (is_integer(height) and is_integer(width) and height > 0 and width > 0):
            return None, ""
        if height * width > _MAX_BLANK:
            return None, ""
        return np.full((height, width, 3), _GRAY, np.uint8), " (the image cannot be read)"

    def _label(self, annotation: Item) -> str:
        id_ = _key(annotation.get("category_id"))
        name = printable(self.names.get(id_, f"category {id_}"))
        return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"


def _items(content: Mapping[str, Any], key: str) -> list[Item]:
    items = content.get(key)
    return [x for x in items if isinstance(x, dict)] if isinstance(items, list) else []


def _text(value: Any) -> str:
    return value[: 2 * _MAX_LABEL] if isinstance(value, str) else shorten(value)


def _key(id_: Any) -> Any:
    """An id of any kind as what a dict can hold."""
    return id_ if isinstance(id_, (int, str)) else shorten(id_)


def _drawable(annotation: Item, height: int, width: int) -> list[Item]:
    """The mask, if there is one that can be drawn, and the box, if there is one."""
    box: Any = annotation.get("bbox")
    found = []
    try:
        mask = to_rle(annotation.get("segmentation"), height, width)
        edges = mask_util.toBbox(mask).tolist()
        if edges[2]:
            found.append({"bbox": edges, "segmentation": mask})
    except ValueError:
        pass
    return found if find_box_problem(box) else [*found, {"bbox": list(box)}]
