"""Images of any kind that users have -> (H, W, 3) uint8, RGB."""

import os
import threading
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # of height x width
_PROGRAMS = ("EPS",)  # for Ghostscript
_pillow_limit = threading.Lock()


def read_rgb(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file, turned by its EXIF orientation.

    Of 16 bits a pixel, the high byte counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is damaged, or has more pixels than `max_pixels`.
    """
    try:
        with open_image(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(
                    f"image {path} has {width} x {height} = {width * height} pixels, more than"
                    f" {max_pixels}"
                )
            return upright_rgb(image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no image that Pillow can read") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {' '.join(str(error).split())}") from error


def open_image(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Read the header, whatever Pillow's own limit is; another thread may do so as well.

    A format that Pillow hands to an interpreter is no image.
    """
    Image.init()
    formats = [name for name in Image.ID if name not in _PROGRAMS]
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def upright_rgb(image: Image.Image) -> np.ndarray:
    """What `open_image` gave -> (H, W, 3) uint8, turned by its EXIF orientation.

    Of 16 bits a pixel, the high byte counts.

    Raises:
        ValueError: as `rgb_of_pil`.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        high = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    return rgb_of_pil(upright)


def as_rgb(
    image: Any, channels: str = "RGB", read: Callable[[Any], np.ndarray] = read_rgb
) -> np.ndarray:
    """An image as a path, of PIL, an array or a tensor -> (H, W, 3) uint8, RGB.

    Args:
        image: a path; of PIL; an (H, W, 3) or gray (H, W) uint8 array; or a (3, H, W) uint8 torch
            tensor.
        channels: "RGB" or "BGR", of arrays and tensors alone.
        read: path -> (H, W, 3) uint8, RGB.

    Raises:
        ValueError: it is none of these; one line that says what it is.
        OSError: as `read`.
    """
    if channels not in ("RGB", "BGR"):
        raise ValueError(f"channels {channels!r} must be 'RGB' or 'BGR'")
    if isinstance(image, (str, os.PathLike)):
        return read(image)
    if isinstance(image, Image.Image):
        return rgb_of_pil(image)
    if hasattr(image, "detach") and hasattr(image, "cpu"):  # a torch tensor, without torch
        _check_dtype(str(image.dtype).removeprefix("torch."), "use .to(torch.uint8)")
        image = _from_tensor(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"an image is of type {type(image).__name__}; it must be a path, an image of PIL, an"
            " (H, W, 3) or (H, W) uint8 array or a (3, H, W) uint8 tensor"
        )
    _check_array(image)
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, ::-1] if channels == "BGR" else image)


def rgb_of_pil(image: Image.Image) -> np.ndarray:
    """An image of PIL -> (H, W, 3) uint8; alpha is ignored.

    Raises:
        ValueError: it has more than 8 bits a channel, so that its black and white are not known;
            or no pixels.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(
            f"an image of PIL has the mode {image.mode!r}, more than 8 bits a pixel; bring it into"
            " 0 to 255 and convert it to 'RGB'"
        )
    if 0 in image.size:
        raise ValueError(f"an image of PIL has {image.width} x {image.height} pixels")
    return np.array(image.convert("RGB"))


def _from_tensor(image: Any) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image tensor has the shape {tuple(image.shape)}, not (3, H, W)")
    return image.detach().cpu().numpy().transpose(1, 2, 0)


def _check_dtype(dtype: str, advice: str) -> None:
    if dtype != "uint8":
        raise ValueError(
            f"an image has the dtype {dtype}, not uint8; bring its values into 0 to 255 and"
            f" {advice}"
        )


def _check_array(image: np.ndarray) -> None:
    _check_dtype(str(image.dtype), "use .astype('uint8')")
    if 0 in image.shape or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(
            f"an image has the shape {image.shape}; it must be (H, W, 3), or (H, W) if it is gray"
        )
