"""Draws what is annotated on images, and what training makes of it."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BoxMode, Instances

from ..config import MAX_PIXELS
from ..data.copy_paste import copy_paste
from ..data.images import check_image_size, read_image
from ..data.instance_checks import describe
from ..data.mapper import build_mapper
from ..data.mask_bounds import to_rle
from ..data.seeds import generator_at, seeded_generators
from ..report.pictures import COLOURS, IGNORED_COLOUR, draw_objects
from .contents import Photo

_MAX_LABELS = 30  # of a picture; names of more objects would hide them
_GAP = 8  # pixels between pictures
_PAPER = 255

Item = dict[str, Any]


def choose(photos: Sequence[Photo], num: int, seed: int) -> list[Photo]:
    """At most so many of the images, by chance, in their order."""
    chosen = generator_at(seed).permutation(len(photos))[:num]
    return [photos[index] for index in sorted(chosen)]


def draw_photo(photo: Photo, classes: Sequence[str]) -> np.ndarray:
    """An image with its objects, (H, W, 3) uint8, RGB; small ones are enlarged.

    Crowds are gray.

    Raises:
        OSError, ValueError: the image cannot be read, or has another size.
    """
    pixels = read_image(photo.path, "RGB", MAX_PIXELS)
    check_image_size({**photo.record, "file_name": photo.path}, pixels)
    height, width = pixels.shape[:2]
    objects = []
    for annotation in photo.annotations:
        obj = {"bbox": annotation["bbox"], "crowd": bool(annotation.get("iscrowd", 0))}
        if annotation.get("segmentation"):
            label = describe(annotation, photo.record)
            obj["segmentation"] = to_rle(annotation["segmentation"], height, width, label)
        objects.append({**obj, "name": classes[annotation["category_id"]]})
    return _draw(pixels, objects)


class Augmented:
    """Images as training hands them to the model."""

    def __init__(self, photos: Sequence[Photo], classes: Sequence[str], cfg: CfgNode, seed: int):
        """
        Args:
            photos: all of the part, of which INPUT.COPY_PASTE takes objects.
            cfg: its INPUT says what is done to an image.

        Raises:
            ValueError: a value of INPUT is invalid.
        """
        self._photos, self._classes, self._seed = photos, classes, seed
        self._mapper = build_mapper(cfg, is_train=True)
        self._format, self._copy_paste = cfg.INPUT.FORMAT, cfg.INPUT.COPY_PASTE

    def draw(self, photo: Photo) -> np.ndarray:
        """As `draw_photo`, with what is left of the objects. The seed decides about chance."""
        with seeded_generators(self._seed, self._photos.index(photo)):
            inputs = self._mapper(_as_dict(photo))
            if self._copy_paste and random.random() < self._copy_paste:
                other = self._mapper(_as_dict(random.choice(self._photos)))
                inputs = copy_paste(inputs, other)
        pixels = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), self._format)
        objects = _objects_of(inputs["instances"], self._classes)
        return _draw(np.ascontiguousarray(pixels, dtype=np.uint8), list(objects))


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) in a row, white around the smaller ones."""
    height = max(len(picture) for picture in pictures)
    row: list[np.ndarray] = []
    for picture in pictures:
        edges = ((0, height - len(picture)), (_GAP if row else 0, 0), (0, 0))
        row.append(np.pad(picture, edges, constant_values=_PAPER))
    return np.concatenate(row, axis=1)


def _as_dict(photo: Photo) -> Item:
    """In Detectron2's format."""
    annotations = [{**x, "bbox_mode": BoxMode.XYWH_ABS} for x in photo.annotations]
    return {**photo.record, "file_name": photo.path, "annotations": annotations}


def _objects_of(instances: Instances, classes: Sequence[str]) -> Iterator[Item]:
    boxes = BoxMode.convert(instances.gt_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    for index, (box, class_idx) in enumerate(zip(boxes.tolist(), instances.gt_classes.tolist())):
        obj = {"bbox": box, "name": classes[class_idx], "crowd": False}
        if instances.has("gt_masks"):
            mask = np.asfortranarray(instances.gt_masks.tensor[index].numpy(), dtype=np.uint8)
            obj["segmentation"] = mask_util.encode(mask)
        yield obj


def _draw(pixels: np.ndarray, objects: Sequence[Item]) -> np.ndarray:
    colours = [
        IGNORED_COLOUR if obj["crowd"] else COLOURS[index % len(COLOURS)]
        for index, obj in enumerate(objects)
    ]
    labels = [obj["name"] + (" (crowd)" if obj["crowd"] else "") for obj in objects]
    if len(objects) > _MAX_LABELS:
        labels = [""] * len(objects)
    return draw_objects(pixels, objects, colours, labels)
