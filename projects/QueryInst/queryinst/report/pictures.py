"""Pictures of held-out images: ground truth beside predictions."""

import os
from collections.abc import Sequence
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFont

from ..data.images import read_image
from .objects import Object, Scene

# One colour an object, of equal brightness more or less; red is for what is wrong.
COLOURS = (
    (0, 158, 255),
    (255, 176, 0),
    (64, 220, 96),
    (214, 120, 255),
    (0, 214, 204),
    (255, 128, 178),
    (196, 216, 0),
    (150, 150, 255),
)
EXTRA_COLOUR = (255, 48, 48)
IGNORED_COLOUR = (150, 150, 150)
_OPACITY = 0.40
_LONG_SIDE = 512  # pixels that a small image is enlarged to, about, and a large one reduced to
_MAX_ENLARGEMENT = 4
_FONT_SIZE = 14
_GAP = 8  # pixels between the two halves
_PAPER, _INK = (255, 255, 255), (32, 36, 44)


def draw_pair(scene: Scene, class_names: Sequence[str]) -> np.ndarray:
    """Ground truth on the left, predictions on the right.

    A prediction has the colour of the object that it found; a red outline where there is none.

    Returns:
        (H, W, 3) uint8, RGB: two enlarged images and a gap of white.

    Raises:
        FileNotFoundError, ValueError: the image cannot be read.
    """
    image = read_image(scene.file_name, "RGB")
    truth_colours = _truth_colours(scene)
    truth_labels = [_truth_label(scene, i, class_names) for i in range(len(scene.truths))]
    prediction_colours = [
        _prediction_colour(scene, j, truth_colours) for j in range(len(scene.role))
    ]
    prediction_labels = [f"{_name(p, class_names)} {p.score:.2f}" for p in scene.predictions]
    left = draw_objects(image, scene.truths, truth_colours, truth_labels)
    # What found nothing mostly lies on what was found: an outline leaves that to be seen.
    filled = [role != Scene.EXTRA for role in scene.role]
    right = draw_objects(image, scene.predictions, prediction_colours, prediction_labels, filled)
    gap = np.full((len(left), _GAP, 3), _PAPER, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def draw_objects(
    image: np.ndarray,
    objects: Sequence[Object],
    colours: Sequence[tuple[int, int, int]],
    labels: Sequence[str],
    filled: Sequence[bool] | None = None,
) -> np.ndarray:
    """An image (H, W, 3) RGB, enlarged, with its objects' masks, outlines and labels on it.

    Args:
        filled: whether to draw the mask itself, not its outline alone; None for all.
    """
    scale = enlargement(*image.shape[:2])
    canvas = _resize(image, scale)
    masks = [_enlarged_mask(obj, scale, canvas.shape[:2]) for obj in objects]
    for mask, colour, is_filled in zip(masks, colours, filled or [True] * len(masks)):
        if is_filled:
            canvas[mask] = (canvas[mask] * (1 - _OPACITY) + np.array(colour) * _OPACITY).astype(
                "uint8"
            )
    for mask, colour in zip(masks, colours):  # over all the masks
        contours = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[-2]
        cv2.drawContours(canvas, contours, -1, _PAPER, 4)
        cv2.drawContours(canvas, contours, -1, colour, 2)
    return _draw_labels(canvas, scale, objects, colours, labels)


def enlargement(height: int, width: int) -> float:
    """The factor by which an image of this size is drawn larger, or smaller."""
    factor = _LONG_SIDE / max(height, width)
    return min(float(round(factor)), _MAX_ENLARGEMENT) if factor > 1.5 else min(1.0, factor * 1.5)


def with_header(pair: np.ndarray, left: str, right: str) -> np.ndarray:
    """A picture of `draw_pair` with text of two lines at most above each half."""
    height = 3 * _FONT_SIZE
    header = Image.new("RGB", (pair.shape[1], height), _PAPER)
    draw = ImageDraw.Draw(header)
    half = (pair.shape[1] + _GAP) // 2
    for x, text in ((0, left), (half, right)):
        draw.text((x + 4, 3), text, _INK, _font(_FONT_SIZE))
    return np.concatenate([np.asarray(header), pair])


def save_png(image: np.ndarray, path: str) -> None:
    """Write (H, W, 3) RGB as PNG.

    Raises:
        OSError: one line that names the file.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        Image.fromarray(image).save(path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error})") from error


def choose(num_images: int, num_wanted: int) -> list[int]:
    """Indices of images at equal distances, the first and the last among them."""
    num = min(num_images, num_wanted)
    return [int(index) for index in np.linspace(0, num_images - 1, num).round()] if num else []


def _truth_colours(scene: Scene) -> list[tuple[int, int, int]]:
    return [
        IGNORED_COLOUR if truth.is_crowd else COLOURS[index % len(COLOURS)]
        for index, truth in enumerate(scene.truths)
    ]


def _prediction_colour(scene: Scene, index: int, truth_colours) -> tuple[int, int, int]:
    role = scene.role[index]
    if role >= 0:
        return truth_colours[role]
    return EXTRA_COLOUR if role == Scene.EXTRA else IGNORED_COLOUR


def _truth_label(scene: Scene, index: int, class_names: Sequence[str]) -> str:
    truth = scene.truths[index]
    name = _name(truth, class_names)
    if truth.is_crowd:
        return f"{name} (not counted)"
    return name if scene.found_by[index] is not None else f"{name} (missed)"


def _name(obj: Object, class_names: Sequence[str]) -> str:
    return class_names[obj.class_idx] if obj.class_idx < len(class_names) else str(obj.class_idx)


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    """A copy, `scale` times as large."""
    if scale == 1:
        return image.copy()
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)


def _enlarged_mask(obj: Object, scale: float, size: tuple[int, int]) -> np.ndarray:
    """The object's mask, or the edge of its box where it has none, (H, W) bool on the canvas."""
    height, width = size
    if obj.rle is not None:
        mask = mask_util.decode(obj.rle).astype(np.float32)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    canvas = np.zeros(size, np.uint8)
    x0, y0, box_width, box_height = (round(side * scale) for side in obj.box)
    cv2.rectangle(canvas, (x0, y0), (x0 + box_width, y0 + box_height), 1, 2)
    return canvas.astype(bool)


def _draw_labels(canvas, scale, objects, colours, labels) -> np.ndarray:
    """Names at the upper left of the boxes, dark on the object's colour, within the picture."""
    picture = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), _font(_FONT_SIZE)
    taken: list[tuple[float, float, float, float]] = []
    for obj, colour, label in zip(objects, colours, labels):
        x, y = obj.box[0] * scale, obj.box[1] * scale
        width, height = draw.textlength(label, font) + 6, _FONT_SIZE + 4
        x = min(max(x, 0), max(picture.width - width, 0))
        y = min(max(y - height, 0), picture.height - height)
        while any(x < b[2] and b[0] < x + width and y < b[3] and b[1] < y + height for b in taken):
            y += height  # below the label that is there
        taken.append((x, y, x + width, y + height))
        draw.rectangle(taken[-1], fill=colour)
        draw.text((x + 3, y + height / 2), label, (0, 0, 0), font, anchor="lm")
    return np.array(picture)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)
