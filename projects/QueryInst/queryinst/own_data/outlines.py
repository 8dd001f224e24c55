"""Masks as one polygon each, as YOLO's format has them."""

import numpy as np
import pycocotools.mask as mask_util

from queryinst_runtime.polygons import contours_of

from ..data.mask_bounds import to_rle


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
    """Outlines (k, 2) as one, each joined to those before at the nearest corners."""
    ring = outlines[0]
    for outline in outlines[1:]:
        distances = np.abs(ring[:, None] - outline[None]).sum(2)
        at, start = np.unravel_index(distances.argmin(), distances.shape)
        loop = np.roll(outline, -start, axis=0)
        ring = np.concatenate([ring[: at + 1], loop, loop[:1], ring[at:]])
    return ring
