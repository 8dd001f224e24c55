"""Masks as one polygon each, as YOLO's format has them."""

import numpy as np
import pycocotools.mask as mask_util
from scipy.spatial import cKDTree

from queryinst_runtime.polygons import contours_of

from ..data.mask_bounds import to_rle

_MANY = 64  # parts of a mask


def one_polygon(segmentation, height: int, width: int) -> tuple[list[float], bool]:
    """The outline of a mask, and whether it has lost holes.

    A polygon within the image stays as it is. Of all else the outline runs along the borders of
    pixels, so that COCO draws the same mask. Several parts are joined by lines there and back,
    which have no area.

    Args:
        segmentation: polygons in pixels or RLE, as COCO has them.

    Returns:
        [x, y, x, y, ...] in pixels within the image, empty for a mask without pixels.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and len(segmentation[0]) >= 6:
        points = np.reshape(segmentation[0], (-1, 2))
        if (points >= 0).all() and (points <= [width, height]).all():
            return list(segmentation[0]), False
    mask = mask_util.decode(to_rle(segmentation, height, width)).astype(bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [], False
    top, left = int(rows[0]), int(columns[0])
    outlines = contours_of(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1])
    polygon = _join(outlines).ravel().tolist()
    drawn = mask_util.decode(to_rle([polygon], height, width))
    return polygon, bool(drawn.sum() > mask.sum())


def _join(outlines: list[np.ndarray]) -> np.ndarray:
    """Outlines (k, 2) as one, each joined to those before at the nearest corners.

    Of many, to the one before alone: looking through all of them takes too long.
    """
    if len(outlines) > _MANY:
        return _chain(_in_strips(outlines))
    ring = outlines[0]
    for outline in outlines[1:]:
        at, start = _nearest(ring, outline)
        loop = np.roll(outline, -start, axis=0)
        ring = np.concatenate([ring[: at + 1], loop, loop[:1], ring[at:]])
    return ring


def _in_strips(outlines: list[np.ndarray]) -> list[np.ndarray]:
    """In an order of short ways: along rows, each as high as parts lie apart, to and fro."""
    x, y = np.array([outline[0] for outline in outlines]).T
    row = y // np.sqrt((np.ptp(x) + 1) * (np.ptp(y) + 1) / len(outlines))
    order = np.lexsort([np.where(row % 2, -x, x), row])
    return [outlines[place] for place in order]


def _chain(outlines: list[np.ndarray]) -> np.ndarray:
    """There along all outlines as far as the next one's place, and back along the rest of each."""
    last = outlines[0]
    there, back = [], []
    for outline in outlines[1:]:
        at, start = _nearest(last, outline)
        there.append(last[: at + 1])
        back.append(last[at:])
        last = np.concatenate([outline[start:], outline[: start + 1]])
    return np.concatenate([*there, last, *reversed(back)])


def _nearest(ring: np.ndarray, outline: np.ndarray) -> tuple[int, int]:
    """The places in both of two corners with the least distance."""
    distances, places = cKDTree(ring).query(outline, p=1)
    start = int(distances.argmin())
    return int(places[start]), start
