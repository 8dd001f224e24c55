"""Images in the size that the network takes, without torch, Detectron2 or OpenCV."""

import numpy as np
from PIL import Image

from .description import Description


def network_size(height: int, width: int, description: Description) -> tuple[int, int]:
    """Height and width that an image is resized to, as in training and evaluation.

    With a fixed size of the network, smaller if that is what it takes to fit.
    """
    short, long = description.min_size_test, description.max_size_test
    if short == 0:
        size = height, width
    elif description.resize_with == "OPENCV":  # as mmcv's rescale_size
        scale = min(long / max(height, width), short / min(height, width))
        size = int(height * scale + 0.5), int(width * scale + 0.5)
    else:  # as Detectron2's ResizeShortestEdge
        scale = short / min(height, width)
        new: tuple[float, float] = scale * height, short
        if height < width:
            new = short, scale * width
        if max(new) > long:
            scale = long / max(new)
            new = new[0] * scale, new[1] * scale
        size = int(new[0] + 0.5), int(new[1] + 0.5)
    size = max(size[0], 1), max(size[1], 1)
    if description.size is not None:
        scale = min(1.0, *(most / side for most, side in zip(description.size, size)))
        size = int(size[0] * scale + 1e-6), int(size[1] * scale + 1e-6)
    return max(size[0], 1), max(size[1], 1)


def resize(image: np.ndarray, size: tuple[int, int], resize_with: str) -> np.ndarray:
    """Resize (H, W, 3) uint8 to height, width bilinearly, by the library that training used.

    Pillow antialiases what shrinks. OpenCV does not: without it installed, `resize_plainly`.
    """
    if image.shape[:2] == size:
        return image
    if resize_with != "OPENCV":
        pillow = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(pillow.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    try:
        import cv2
    except ImportError:
        return resize_plainly(image, size)
    return cv2.resize(np.ascontiguousarray(image), (size[1], size[0]))


def resize_plainly(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As ``cv2.resize`` with INTER_LINEAR, which rounds weights to 1/2048: within one level."""
    rows, next_rows, down = _neighbours(image.shape[0], size[0])
    columns, next_columns, right = _neighbours(image.shape[1], size[1])
    right = right[:, None]
    pixels = image[:, columns] * (1 - right) + image[:, next_columns] * right
    down = down[:, None, None]
    pixels = pixels[rows] * (1 - down) + pixels[next_rows] * down
    return np.rint(pixels).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels around each new one along a side, and the second's weight."""
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(places).astype(np.int64)
    second = np.minimum(first + 1, old - 1)
    return first, second, (places - first).astype(np.float32)


def to_batch(images: list[np.ndarray], description: Description) -> tuple[np.ndarray, np.ndarray]:
    """Normalize RGB images and pad them with zeros at the right and the bottom.

    Args:
        images: (h, w, 3) uint8 each, of `network_size`.

    Returns:
        (N, 3, H, W) float32 in the network's order of channels, and (N, 2) int64: h, w.
    """
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    if description.size is not None:
        height, width = description.size
    else:
        step = description.size_divisibility
        height, width = (-(-int(side) // step) * step for side in sizes.max(axis=0))
    batch = np.zeros((len(images), 3, height, width), np.float32)
    mean = np.array(description.pixel_mean, np.float32)
    std = np.array(description.pixel_std, np.float32)
    for place, image in zip(batch, images):
        channels = image if description.input_format == "RGB" else image[:, :, ::-1]
        normalized = (channels.astype(np.float32) - mean) / std
        place[:, : image.shape[0], : image.shape[1]] = normalized.transpose(2, 0, 1)
    return batch, sizes
