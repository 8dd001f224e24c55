"""Reads images into 8-bit arrays, for training, evaluation and prediction."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from queryinst_runtime.images import open_image

from ..config import MAX_PIXELS

PathLike = str | os.PathLike[str]

IMAGE_PROBLEMS = ("not-image", "broken", "too-large", "32-bit", "size", "turned")

EXIF_ORIENTATION = 274  # the tag's number
SWAPPING_ORIENTATIONS = (5, 6, 7, 8)  # those by which width and height change places
# Formats that older Pillow versions open as 32-bit "I" although their pixels have 16 bits.
_FORMATS_OF_16_BITS = ("PNG", "PPM")


class ImageFileError(ValueError):
    """What is wrong with an image file: `problem` is one of IMAGE_PROBLEMS."""

    def __init__(self, problem: str, message: str):
        super().__init__(message)
        self.problem = problem


class ImageSizeError(ImageFileError, detection_utils.SizeMismatchError):
    """An image has another size than its annotation."""


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
        ImageFileError: it is not an image, is damaged, too large, or has an unknown range of values
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
    with open_header(file, file_name) as image:
        check_num_pixels(image, file_name, max_pixels)
        try:
            # EXIF tags of a PNG may follow its pixels: Detectron2 would read both in one `try`, and
            # go on with black pixels. A TIFF is turned by being loaded: it would be so twice.
            image.load()
            upright = detection_utils._apply_exif_orientation(image)
            upright = _to_8_bits(upright, image.format, file_name)
            array = detection_utils.convert_PIL_to_numpy(upright, format)
        except ImageFileError:
            raise
        except Exception as error:  # Pillow's readers raise anything for damaged files
            raise _broken(file_name, error) from error
        return np.require(array, requirements="W")  # torch warns about PIL's read-only arrays


def check_num_pixels(image: Image.Image, file_name: PathLike, max_pixels: int) -> None:
    """Raise an ImageFileError for an image that is too large to be decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageFileError(
            "too-large",
            f"image {file_name} has {width} x {height} = {width * height} pixels, "
            f"INPUT.MAX_PIXELS is {max_pixels}; raise it, or use a smaller image",
        )


def _broken(file_name: PathLike, error: Exception) -> ImageFileError:
    text = " ".join(str(error).split()) or type(error).__name__
    return ImageFileError("broken", f"cannot read image {file_name}: {text}")


@contextmanager
def open_header(file: IO[bytes], file_name: PathLike) -> Iterator[Image.Image]:
    """Read the header of an image of any size.

    Raises:
        ImageFileError: as `read_image`.
    """
    try:
        image = open_image(file)
    except UnidentifiedImageError as error:
        message = f"{file_name} is not an image that Pillow can read"
        raise ImageFileError("not-image", message) from error
    except Exception as error:  # as above
        raise _broken(file_name, error) from error
    with image:
        yield image


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Complete "width" and "height" in the dict of an image (H, W, C), pixels.

    Raises:
        ImageSizeError: they exist and differ from the image's.
    """
    check_sides(dataset_dict, *image.shape[:2])


def check_sides(dataset_dict: dict[str, Any], height: int, width: int) -> None:
    """As `check_image_size`, of the sides of an image that is turned by its EXIF orientation."""
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected == (width, height):
        return
    problem, advice = "size", "correct the annotation's width and height"
    if expected == (height, width) and _has_swapped_sides(dataset_dict["file_name"]):
        problem = "turned"
        advice = (
            "its EXIF orientation turns it, but it was annotated unturned: remove that tag from "
            "the file, or annotate the turned image"
        )
    raise ImageSizeError(
        problem,
        f"image {dataset_dict['file_name']} is {width}x{height}, its annotation says "
        f"{expected[0]}x{expected[1]}: {advice}",
    )


def _has_swapped_sides(file_name: PathLike) -> bool:
    """Whether the EXIF orientation swaps the width and the height of the stored pixels."""
    with PathManager.open(os.fspath(file_name), "rb") as file:
        with open_header(file, file_name) as image, suppress(Exception):  # of damaged tags
            return image.getexif().get(EXIF_ORIENTATION) in SWAPPING_ORIENTATIONS
    return False


def _to_8_bits(image: Image.Image, file_format: str | None, file_name: PathLike) -> Image.Image:
    if has_16_bits(image.mode, file_format):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    check_bits(image.mode, file_format, file_name)
    return image


def has_16_bits(mode: str, file_format: str | None) -> bool:
    """Whether Pillow's mode, of an image or its header, is of 16-bit grayscale."""
    return mode.startswith("I;16") or (mode == "I" and file_format in _FORMATS_OF_16_BITS)


def check_bits(mode: str, file_format: str | None, file_name: PathLike) -> None:
    """Raise an ImageFileError for pixels of 32 bits."""
    if mode in ("I", "F") and not has_16_bits(mode, file_format):
        raise ImageFileError(
            "32-bit",
            f"cannot read image {file_name}: its pixels have 32 bits (Pillow's mode {mode!r}), "
            "whose black and white are not known; save it with 8 or 16 bits per channel",
        )
