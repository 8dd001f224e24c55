"""Run-length codes of masks that are given where they lie, by pycocotools."""

import numpy as np
from pycocotools import mask as mask_utils

from queryinst_runtime.masks import Rle


def encode_crop(top: int, left: int, mask: np.ndarray, height: int, width: int) -> Rle:
    """The code of an image's mask of which only a crop exists.

    Args:
        top, left: of the first pixel of `mask` in the image.
        mask: (h, w) bool; outside of it the image's mask is empty.
        height, width: of the image.
    """
    columns = np.pad(np.asarray(mask, np.int8).T, ((0, 0), (1, 1)))  # (w, h + 2)
    steps = np.diff(columns, axis=1)
    first = np.arange(left, left + len(columns))[:, None] * height + top
    places = first + np.arange(steps.shape[1])  # in the image, column by column
    starts, ends = places[steps > 0], places[steps < 0]
    borders = np.stack([starts, ends], axis=1).ravel()
    # A run that touches the image's lower border may go on at the upper one, in the next column.
    goes_on = np.flatnonzero(np.diff(borders) == 0)
    borders = np.delete(borders, np.concatenate([goes_on, goes_on + 1]))
    counts = np.diff(np.concatenate([[0], borders, [height * width]])).tolist()
    if counts[-1] == 0:
        counts.pop()
    uncompressed = {"size": [height, width], "counts": counts}
    return as_text(mask_utils.frPyObjects(uncompressed, height, width))


def as_text(rle: dict) -> Rle:
    """A code of pycocotools' with its counts as a str, as JSON takes it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}
