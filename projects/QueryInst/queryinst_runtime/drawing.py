"""Pictures of results, with Pillow alone."""

import colorsys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .images import MAX_PIXELS, as_rgb, read_rgb

if TYPE_CHECKING:
    from .results import Result

_OPACITY = 0.5  # of masks
_LONG_SIDE = 480  # pixels, about, that images of less than two thirds of it are enlarged to
_MAX_ENLARGEMENT = 4
_GOLDEN_RATIO = 0.618


def enlargement(height: int, width: int) -> int:
    """How many times larger an image is drawn: labels would hide what is in small ones."""
    return min(max(round(_LONG_SIDE / max(height, width)), 1), _MAX_ENLARGEMENT)


def color_of(number: int) -> tuple[int, int, int]:
    """A bright colour; those of neighbouring numbers differ most."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(result: "Result", image: Any, enlarge: bool = True) -> Image.Image:
    """Masks, boxes, names and scores on an image, the best on top; arguments as `Result.draw`."""
    if image is None:
        raise ValueError("the result has no image to draw on; give one")
    max_pixels = max(MAX_PIXELS, result.image_size[0] * result.image_size[1])
    pixels = as_rgb(image, read=partial(read_rgb, max_pixels=max_pixels)).copy()
    if pixels.shape[:2] != tuple(result.image_size):
        found, wanted = pixels.shape[1::-1], result.image_size[::-1]
        raise ValueError(f"the image has {found} pixels, the result is of one of {wanted}")
    order = range(len(result) - 1, -1, -1)
    colors = [color_of(number) for number in _numbers(result)]
    for index in order:
        if result.has_masks:
            _tint(pixels, *result.crop(index), colors[index])
    scale = enlargement(*pixels.shape[:2]) if enlarge else 1
    picture = Image.fromarray(pixels)
    picture = picture.resize((picture.width * scale, picture.height * scale))
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, min(picture.size) // 45))
    for index in order:
        box = [side * scale for side in result.boxes[index].tolist()]
        canvas.rectangle(box, outline=colors[index], width=max(1, min(picture.size) // 400))
        _write(canvas, picture.width, box, _label(result, index), colors[index], font)
    return picture


def _numbers(result: "Result") -> list[int]:
    """What gives an object its colour: its identity in a video, else its place."""
    ids = result.track_ids
    return list(range(len(result))) if ids is None else ids.tolist()


def _label(result: "Result", index: int) -> str:
    text = f"{result.names[index]} {result.scores[index]:.2f}"
    return text if result.track_ids is None else f"#{result.track_ids[index]} {text}"


def _tint(
    pixels: np.ndarray, top: int, left: int, mask: np.ndarray, color: tuple[int, int, int]
) -> None:
    region = pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
    mixed = region[mask] * (1 - _OPACITY) + np.array(color) * _OPACITY
    region[mask] = mixed.astype(np.uint8)


def _write(
    canvas: ImageDraw.ImageDraw,
    width_of_picture: int,
    box: list[float],
    text: str,
    color: Any,
    font: Any,
) -> None:
    """A label at the upper left corner of a box, moved into the picture."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom + 3
    x = min(max(box[0], 0), max(width_of_picture - width, 0))
    y = box[1] - height if box[1] >= height else max(box[1], 0)
    canvas.rectangle([x, y, x + width, y + height], fill=color)
    luminance = np.dot(color, [0.299, 0.587, 0.114])
    canvas.text((x + 2, y), text, fill="black" if luminance > 128 else "white", font=font)
