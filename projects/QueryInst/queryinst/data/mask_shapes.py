"""Where a mask lies and how large it is, without drawing it where its numbers tell."""

from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from .mask_bounds import draw, is_area

_DISTINCT = 0.75  # share of an outline's points in pixels of their own; half, if it is there twice

Bounds = tuple[float, float, float, float]  # XYXY in pixels


class MaskShape(NamedTuple):
    """What a check has to know of a mask.

    Attributes:
        bounds: of its outline, as it is written: it may lie outside of the image.
        area: in pixels; of polygons inside of the image it is a bound of their parts' areas.
        is_exact: whether the area is that of the mask drawn.
    """

    bounds: Bounds
    area: float
    is_exact: bool

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is drawn."""
        return self.is_exact and self.area == 0


def measure(parsed: list[np.ndarray] | np.ndarray, height: int, width: int) -> MaskShape:
    """Of what `parse_instance_mask` returns."""
    if isinstance(parsed, list):
        return _measure_polygons(parsed, height, width)
    return _measure_runs(parsed, height)


def _measure_polygons(polygons: list[np.ndarray], height: int, width: int) -> MaskShape:
    """Of polygons of which at least one is an area.

    A polygon that lies inside of its image, is as thick as two pixels and does not pass most of its
    pixels twice is not drawn.
    """
    areas = [polygon for polygon in polygons if is_area(polygon)]
    first = areas[0] if len(areas) == 1 else np.concatenate(areas)
    xs, ys = first[::2], first[1::2]
    left, right = float(xs.min()), float(xs.max())
    top, bottom = float(ys.min()), float(ys.max())
    bounds = left, top, right, bottom
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        area = sum(map(_area_of, areas))
        if area > right - left + bottom - top and not any(map(_is_twice_over, areas)):
            return MaskShape(bounds, area, False)
    return MaskShape(bounds, drawn_area(polygons, height, width), True)


def _is_twice_over(polygon: np.ndarray) -> bool:
    """Whether points share their pixels with others as those of an outline written twice do.

    pycocotools fills what outlines surround an odd number of times: such a one has no pixel, for
    all of its area.
    """
    points = np.rint(polygon).view(np.complex128).tolist()  # x + iy
    return len(set(points)) < _DISTINCT * len(points)


def drawn_area(polygons: list[np.ndarray], height: int, width: int) -> float:
    """The number of pixels of the mask."""
    return float(mask_util.area(draw(polygons, height, width)))


def _area_of(polygon: np.ndarray) -> float:
    """By the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    cross = np.dot(xs[:-1], ys[1:]) - np.dot(xs[1:], ys[:-1]) + xs[-1] * ys[0] - xs[0] * ys[-1]
    return abs(float(cross)) / 2


def _measure_runs(runs: np.ndarray, height: int) -> MaskShape:
    """Of runs that fill the image, background first."""
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    if not lengths.all():
        ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    if not len(ends):
        return MaskShape((0.0, 0.0, 0.0, 0.0), 0.0, True)
    return MaskShape(_bounds_of(ends - lengths, ends - 1, height), float(lengths.sum()), True)


def row_order_bounds(runs: np.ndarray, width: int) -> Bounds:
    """Bounds of the mask if its runs were counted row by row; it must not be empty."""
    lengths = runs[1::2]
    ends = np.cumsum(runs)[1::2][lengths > 0]
    top, left, bottom, right = _bounds_of(ends - lengths[lengths > 0], ends - 1, width)
    return left, top, right, bottom


def _bounds_of(firsts: np.ndarray, lasts: np.ndarray, side: int) -> Bounds:
    """XYXY of runs from their first to their last pixels in columns of `side` pixels."""
    left, right = int(firsts[0]) // side, int(lasts[-1]) // side
    if (firsts // side != lasts // side).any():  # a run goes on in the next column
        return float(left), 0.0, float(right + 1), float(side)
    return float(left), float((firsts % side).min()), right + 1.0, float((lasts % side).max() + 1)
