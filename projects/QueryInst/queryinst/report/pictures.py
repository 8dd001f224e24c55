"""Pictures of held-out images: ground truth beside predictions."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..data.images import read_image
from .objects import Annotation, Scene

Colour = tuple[int, int, int]

# One colour an object, of equal brightness more or less; red is for what is wrong.
_HEX = ("#009eff", "#ffb000", "#40dc60", "#d678ff", "#00d6cc", "#ff80b2", "#c4d800", "#9696ff")
COLOURS: list[Colour] = [ImageColor.getrgb(colour)[:3] for colour in _HEX]
EXTRA_COLOUR = (255, 48, 48)
IGNORED_COLOUR = (150, 150, 150)
_OPACITY = 0.40
_LONG_SIDE = 512  # pixels that a small image is enlarged to, about, and a large one reduced to
_MAX_ENLARGEMENT = 4
_FONT_SIZE = 14
_GAP = 8  # pixels between the two halves
_PAPER, _INK = (255, 255, 255), (32, 36, 44)


def draw_pair(scene: Scene, names: Mapping[int, str], max_pixels: int) -> np.ndarray:
    """Ground truth on the left, predictions on the right.

    A prediction has the colour of the object that it matches; a red outline where there is none.

    Args:
        names: of the categories, by their ids.
        max_pixels: as `read_image`'s.

    Returns:
        (H, W, 3) uint8, RGB: two enlarged images and a gap of white.

    Raises:
        FileNotFoundError, ValueError: the image cannot be read.
    """
    image = read_image(scene.file_name, "RGB", max_pixels)
    colours: dict[int | None, Colour] = {None: EXTRA_COLOUR}
    truth_labels, labels = [], []
    for index, truth in enumerate(scene.truths):
        is_crowd = truth["iscrowd"]
        colours[truth["id"]] = IGNORED_COLOUR if is_crowd else COLOURS[index % len(COLOURS)]
        remark = "" if scene.is_matched(truth) else " (missed)"
        truth_labels.append(
            names[truth["category_id"]] + (" (not counted)" if is_crowd else remark)
        )
    for prediction in scene.predictions:
        name = names.get(prediction["category_id"], prediction["category_id"])
        labels.append(f"{name} {prediction['score']:.2f}")
    truth_colours = [colours[truth["id"]] for truth in scene.truths]
    left = draw_objects(image, scene.truths, truth_colours, truth_labels)
    matches = [colours[prediction["match"]] for prediction in scene.predictions]
    right = draw_objects(image, scene.predictions, matches, labels)
    return np.concatenate([left, np.full((len(left), _GAP, 3), _PAPER, np.uint8), right], axis=1)


def with_header(pair: np.ndarray, left: str, right: str) -> np.ndarray:
    """A picture of `draw_pair` with text of two lines at most above each half."""
    header = Image.new("RGB", (pair.shape[1], 3 * _FONT_SIZE), _PAPER)
    for x, text in ((0, left), ((pair.shape[1] + _GAP) // 2, right)):
        ImageDraw.Draw(header).text((x + 4, 3), text, _INK, _font())
    return np.concatenate([np.asarray(header), pair])


def draw_objects(
    image: np.ndarray,
    objects: Sequence[Annotation],
    colours: Sequence[Colour],
    labels: Sequence[str],
) -> np.ndarray:
    """An image (H, W, 3) RGB, enlarged, with its objects' masks, outlines and labels on it."""
    scale = _enlargement(*image.shape[:2])
    canvas = _resize(image, scale)
    masks = [_enlarged_mask(obj, scale, canvas.shape[:2]) for obj in objects]
    for mask, colour in zip(masks, colours):
        # What matches nothing mostly lies on what does: an outline leaves that to be seen.
        if colour != EXTRA_COLOUR:
            blend = canvas[mask] * (1 - _OPACITY) + np.array(colour) * _OPACITY
            canvas[mask] = blend.astype(np.uint8)
    for mask, colour in zip(masks, colours):  # over all the masks
        contours = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[-2]
        cv2.drawContours(canvas, contours, -1, _PAPER, 4, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, colour, 2, cv2.LINE_AA)
    return _draw_labels(canvas, scale, objects, colours, labels)


def _enlargement(height: int, width: int) -> float:
    """The factor by which an image of this size is drawn larger, or smaller."""
    factor = _LONG_SIDE / max(height, width)
    return min(float(round(factor)), _MAX_ENLARGEMENT) if factor > 1.5 else min(1.0, factor * 1.5)


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    """A copy, `scale` times as large."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(np.array(image), (width, height), interpolation=method)


def _enlarged_mask(obj: Annotation, scale: float, size: tuple[int, int]) -> np.ndarray:
    """The object's mask, or the edge of its box where it has none, (H, W) bool on the canvas."""
    if obj.get("segmentation"):
        mask = mask_util.decode(obj["segmentation"]).astype(np.float32)
        return cv2.resize(mask, size[::-1]) >= 0.5
    canvas = np.zeros(size, np.uint8)
    cv2.rectangle(canvas, [round(side * scale) for side in obj["bbox"]], 1, 2)
    return canvas.astype(bool)


def _draw_labels(canvas, scale, objects, colours, labels) -> np.ndarray:
    """Names at the upper left of the boxes, dark on the object's colour, within the picture.

    An empty name is not drawn.
    """
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for obj, colour, label in zip(objects, colours, labels):
        if not label:
            continue
        width, height = draw.textlength(label, _font()) + 6, _FONT_SIZE + 4
        x = min(max(obj["bbox"][0] * scale, 0), max(picture.width - width, 0))
        y = min(max(obj["bbox"][1] * scale - height, 0), picture.height - height)
        while any(x < b[2] and b[0] < x + width and y < b[3] and b[1] < y + height for b in taken):
            y += height  # below the label that is there
        taken.append((x, y, x + width, y + height))
        draw.rectangle(taken[-1], fill=colour)
        draw.text((x + 3, y + height / 2), label, (0, 0, 0), _font(), anchor="lm")
    return np.array(picture)


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, _FONT_SIZE)
