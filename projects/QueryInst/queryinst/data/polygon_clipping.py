"""Polygons cut off at the border of their image (Sutherland and Hodgman, 1974)."""

import numpy as np

from .mask_bounds import is_area


def clip_polygons(polygons: list[np.ndarray], height: int, width: int) -> list[np.ndarray]:
    """The parts of polygons that lie in an image; what has none there is left out.

    Args:
        polygons: x, y, x, y, ... each, float64.

    Returns:
        As many or less. Where one leaves the image and comes back, it runs along the border.
    """
    clipped = [
        _clip(polygon.reshape(-1, 2), height, width) for polygon in polygons if is_area(polygon)
    ]
    return [points.ravel() for points in clipped if len(points) >= 3]


def _clip(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 2) to (M, 2), by one side of the image after the other."""
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        depths = sign * (points[:, axis] - limit)  # below 0: outside
        if (depths >= 0).all():
            continue
        kept = []
        for here, after, depth, next_depth in zip(
            points, np.roll(points, -1, axis=0), depths, np.roll(depths, -1)
        ):
            if depth >= 0:
                kept.append(here)
            if (depth < 0) != (next_depth < 0):
                crossing = here + (after - here) * (depth / (depth - next_depth))
                crossing[axis] = limit
                kept.append(crossing)
        points = np.array(kept).reshape(-1, 2)
        if not len(points):
            break
    return points
