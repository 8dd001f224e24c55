"""Reads images into 8-bit arrays, for training, evaluation and prediction."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from queryinst_runtime.images import open_image

from ..config import MAX_PIXELS

PathLike = str | os.PathLike[str]

# Formats that older Pillow versions open as 32-bit "I" although their pixels have 16 bits.
_FORMATS_OF_16_BITS = ("PNG", "PPM")


def read_image(file_name: PathLike, format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file as 8 bits per channel, turned by its EXIF orientation.

    Detectron2's function of this name cuts 16-bit grayscale off at 255; here it keeps its high
    byte (65,535 becomes 255). Palettes, 8-bit grayscale, CMYK and 16-bit RGB are converted as
    Pillow does. Alpha is ignored: a transparent pixel has the colour that the file stores for it.
    Of several frames, the first is read.

    Args:
        file_name: any path that Detectron2's ``PathManager`` opens.
        format: as ``INPUT.FORMAT``: "RGB", "BGR", "L", another mode of PIL, "YUV-BT.601".
        max_pixels: of height x width; a larger image is refused before it is decoded.

    Returns:
        (H, W, C), uint8 in [0, 255] (float for "YUV-BT.601").

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an image, is damaged, too large, or has an unknown range of values
            (32 bits).
    """
    with PathManager.open(os.fspath(file_name), "rb") as file:
        return decode_image(file, file_name, format, max_pixels)


def decode_image(
    file: IO[bytes], file_name: PathLike, format: str, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """As `read_image`, of an open file.

    Args:
        file_name: how messages name it.
    """
    with _open(file, file_name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(
                f"image {file_name} has {width} x {height} = {width * height} pixels, "
                f"INPUT.MAX_PIXELS is {max_pixels}; raise it, or use a smaller image"
            )
        try:
            if image.format == "PNG":  # whose EXIF tags may follow the pixels: Detectron2 would
                image.load()  # read both in one `try`, and go on with black pixels
            upright = detection_utils._apply_exif_orientation(image)
            upright = _to_8_bits(upright, image.format)
            array = detection_utils.convert_PIL_to_numpy(upright, format)
        except Exception as error:  # Pillow's readers raise anything for damaged files
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"cannot read image {file_name}: {text}") from error
        return np.require(array, requirements="W")  # torch warns about PIL's read-only arrays


@contextmanager
def _open(file: IO[bytes], file_name: PathLike) -> Iterator[Image.Image]:
    """Read the header of an image of any size.

    Raises:
        ValueError: as `read_image`.
    """
    try:
        image = open_image(file)
    except UnidentifiedImageError as error:
        raise ValueError(f"{file_name} is not an image that Pillow can read") from error
    except Exception as error:  # as above
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read image {file_name}: {text}") from error
    with image:
        yield image


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Complete "width" and "height" in the dict of an image (H, W, C), pixels.

    Raises:
        ValueError: they exist and differ from the image's.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected == (width, height):
        return
    advice = "correct the annotation's width and height"
    if expected == (height, width) and _has_swapped_sides(dataset_dict["file_name"]):
        advice = (
            "its EXIF orientation turns it, but it was annotated unturned: remove that tag from "
            "the file, or annotate the turned image"
        )
    raise detection_utils.SizeMismatchError(
        f"image {dataset_dict['file_name']} is {width}x{height}, its annotation says "
        f"{expected[0]}x{expected[1]}: {advice}"
    )


def _has_swapped_sides(file_name: PathLike) -> bool:
    """Whether the EXIF orientation swaps the width and the height of the stored pixels."""
    with PathManager.open(os.fspath(file_name), "rb") as file, _open(file, file_name) as image:
        return detection_utils._apply_exif_orientation(image).size != image.size


def _to_8_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in _FORMATS_OF_16_BITS):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels have 32 bits (Pillow's mode {image.mode!r}), whose black and white are "
            "not known; save it with 8 or 16 bits per channel"
        )
    return image
