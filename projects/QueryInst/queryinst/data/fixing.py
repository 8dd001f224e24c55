"""A mended copy of a file in COCO's format, of all that can be mended without a guess."""

import json
import os
from collections import Counter, defaultdict
from typing import Any

import pycocotools.mask as mask_util

from ..config import MAX_PIXELS
from . import problem_kinds as kinds
from .coco_check import check_coco_content, read_coco
from .coco_json import is_image_id
from .findings import Finding, Findings, Kind, ProblemError
from .fixing_ids import fix_annotation_ids, fix_category_ids, fix_image_ids
from .fixing_numbers import fix_numbers
from .image_check import with_slashes
from .instance_checks import has_mask, parse_box, parse_instance_mask
from .mask_bounds import draw, is_integer
from .mask_shapes import MaskShape, measure
from .polygon_clipping import clip_polygons
from .set_checks import Use
from .whole_files import whole_file

_USE = Use(False, True, False, None, 10**9, 0, MAX_PIXELS)
# If a file has these, its masks may be other ones than those that are meant.
_DOUBTS = (kinds.AXES_SWAPPED, kinds.RLE_ORDER, kinds.POLYGON_NORMALIZED)
_BOXES = (kinds.BOX, kinds.BOX_NEGATIVE, kinds.BOX_EMPTY)
_AREAS = (kinds.AREA, kinds.AREA_DIFFERS)

Item = dict[str, Any]


def fix_coco(json_file: str, out_file: str, image_root: str = "") -> dict[str, int]:
    """Write a mended copy; masks stay as they are, pixel by pixel.

    Ids that no reader takes are numbered anew, with all references to them. A byte-order mark,
    texts and floats where numbers and integers belong, and crowd flags are put right. Boxes and
    areas that are none, or empty, are computed from the masks. Boxes and polygons are cut off at
    the image's border. What needs a guess stays, such as boxes that contradict their masks. Names
    of files get "/" for "\\\\" if that leads to an image.

    Args:
        image_root: the folder of the images.

    Returns:
        How many entries each mend changed, by its name; {} if there was nothing to do.

    Raises:
        ValueError: the file cannot be read as COCO's format, or `out_file` is the file itself.
        OSError: a file cannot be opened or written.
    """
    if os.path.exists(out_file) and os.path.samefile(json_file, out_file):
        raise ValueError(f"{out_file} is the file to mend itself; choose another for the copy")
    findings = Findings()
    content = read_coco(json_file, findings)
    mends: Counter[str] = Counter()
    if findings.count("error"):
        if content is None:
            raise ValueError(next(findings.groups("error")).examples[0].line)
        mends["byte-order-mark"] += 1
    _check_lists(content, json_file)
    fix_numbers(content, mends)
    fix_image_ids(content, mends)
    fix_category_ids(content, mends)
    fix_annotation_ids(content, mends)
    _fix_shapes(content, json_file, mends)
    mends["file-names"] += sum(_fix_name(image, image_root) for image in content["images"])
    with whole_file(out_file) as file:
        json.dump(content, file)
    return {name: number for name, number in mends.items() if number}


def _check_lists(content: Any, json_file: str) -> None:
    """All lists must be there, and hold objects."""
    for group in _find(content, json_file).groups("error"):
        if group.kind is kinds.FORMAT:
            raise ValueError(group.examples[0].line)


class _Recorder(Findings):
    """Keeps which annotations have which kinds of problems."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, list[int]] = defaultdict(list)

    def add(self, kind: Kind, finding: Finding) -> None:
        super().add(kind, finding)
        self.positions[kind.name].append(finding.position)

    def of(self, *wanted: Kind) -> list[int]:
        """The positions of the annotations that have one of these."""
        found = (self.positions[kind.name] for kind in wanted)
        return sorted({position for positions in found for position in positions})


def _fix_shapes(content: Any, json_file: str, mends: Counter[str]) -> None:
    annotations = content.get("annotations", [])
    for annotation in annotations:
        annotation.setdefault("bbox", None)  # so that these are problems of their values
        annotation.setdefault("area", None)
    images = {x["id"]: x for x in content["images"] if is_image_id(x.get("id")) and _has_sides(x)}
    found = _find(content, json_file)
    if not found.of(*_DOUBTS):
        for position in found.of(*_BOXES):
            mends["boxes"] += _fix_box(annotations[position], images)
    found = _find(content, json_file)
    if not found.of(*_DOUBTS):
        for position in found.of(*_AREAS):
            mends["areas"] += _fix_area(annotations[position], images)
    for position in found.of(kinds.BOX_OUTSIDE):
        mends["boxes-clipped"] += _clip_box(annotations[position], images)
    for position in found.of(kinds.POLYGON_OUTSIDE):
        mends["polygons-clipped"] += _clip_mask(annotations[position], images)


def _fix_name(image: Item, image_root: str) -> bool:
    name = str(image.get("file_name"))
    mended = with_slashes(name)
    if os.path.exists(os.path.join(image_root, name)):
        return False
    if not os.path.isfile(os.path.join(image_root, mended)):
        return False
    image["file_name"] = mended
    return True


def _find(content: Any, json_file: str) -> _Recorder:
    recorder = _Recorder()
    check_coco_content(content, json_file, "", findings=recorder, use=_USE)
    return recorder


def _has_sides(image: Item) -> bool:
    return all(is_integer(image.get(side)) and image[side] > 0 for side in ("height", "width"))


def _image_of(annotation: Item, images: dict[Any, Item]) -> Item | None:
    image_id = annotation.get("image_id")
    return images.get(image_id) if is_image_id(image_id) else None


def _measure(annotation: Item, images: dict[Any, Item]) -> tuple[MaskShape, Item, Any] | None:
    """The shape of a mask that is none without doubt, its image, and its numbers; else None."""
    image = _image_of(annotation, images)
    if image is None or not has_mask(annotation):
        return None
    try:
        parsed = parse_instance_mask(annotation, image)
    except ProblemError:
        return None
    shape = measure(parsed, image["height"], image["width"])
    return None if shape.is_empty else (shape, image, parsed)


def _fix_box(annotation: Item, images: dict[Any, Item]) -> bool:
    """Whether it could."""
    measured = _measure(annotation, images)
    if measured is None:
        return False
    shape, image, _ = measured
    box = _inside(*shape.bounds, image)
    if box[2] <= 0 or box[3] <= 0:
        return False
    annotation["bbox"] = box
    return True


def _inside(left: float, top: float, right: float, bottom: float, image: Item) -> list[float]:
    """XYWH of the part in the image."""
    left, right = max(left, 0.0), min(right, image["width"])
    top, bottom = max(top, 0.0), min(bottom, image["height"])
    return [left, top, right - left, bottom - top]


def _fix_area(annotation: Item, images: dict[Any, Item]) -> bool:
    if not has_mask(annotation):
        try:
            _, _, width, height = parse_box(annotation["bbox"])
        except ProblemError:
            return False
        annotation["area"] = width * height
        return True
    measured = _measure(annotation, images)
    if measured is None:
        return False
    shape, image, parsed = measured
    annotation["area"] = int(shape.area)
    if isinstance(parsed, list):
        annotation["area"] = int(mask_util.area(draw(parsed, image["height"], image["width"])))
    return True


def _clip_box(annotation: Item, images: dict[Any, Item]) -> bool:
    image = _image_of(annotation, images)
    x, y, width, height = parse_box(annotation["bbox"])
    assert image is not None  # else there is no border that it lies outside of
    box = _inside(x, y, x + width, y + height, image)
    if box[2] <= 0 or box[3] <= 0:
        return False
    annotation["bbox"] = box
    return True


def _clip_mask(annotation: Item, images: dict[Any, Item]) -> bool:
    measured = _measure(annotation, images)
    if measured is None:
        return False
    _, image, parsed = measured
    height, width = image["height"], image["width"]
    before = draw(parsed, height, width)
    clipped = clip_polygons(parsed, height, width)
    segmentation: Any = [polygon.tolist() for polygon in clipped]
    if not clipped or draw(clipped, height, width) != before:  # C code rounds the corners
        segmentation = {"size": [height, width], "counts": before["counts"].decode()}
    annotation["segmentation"] = segmentation
    return True
