"""Boxes and masks that contradict each other or their image, and what in the file may be why.

A box tells how its mask is meant, and the other way around. What fits most of the contradictions
of a file is named as their cause; nothing is changed.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from . import problem_kinds as kinds
from .findings import Kind
from .instance_checks import Box
from .mask_shapes import Bounds, MaskShape, row_order_bounds

_SLACK, _SHARE = 2.0, 0.1  # pixels, and share of a side, by which a box may miss its mask
_OUTSIDE = 1.0  # pixels that boxes and polygons may reach out of their image
_LEAST_SIDE = 8  # pixels of an image, below which 0..1 may be meant
_NUM_TEXTS = 3  # of contradictions of one sort that are kept
_TIGHT = 1.0  # pixels, by which a box that was drawn around a mask misses it
LEAST_SIZE = 1e-5  # pixels, below which Detectron2 takes a box for empty
_MOST = 0.95  # of a file's boxes, which another reading must fit without masks

Causes = tuple[Kind, ...]


class _Suspect(NamedTuple):
    position: int  # of its number in the order of `look_at`
    causes: Causes  # that would explain it
    otherwise: Causes  # what it is if none is the cause
    text: str  # of the first ones


class Suspicions:
    """What `look_at` has seen."""

    def __init__(self) -> None:
        self._differing: list[_Suspect] = []
        self._outside: list[_Suspect] = []
        self._texts: Counter[Causes] = Counter()
        self._num_boxes = 0
        self._readings: Counter[Kind] = Counter()  # how many boxes would fit into their image

    @property
    def num_found(self) -> int:
        return len(self._differing) + len(self._outside)

    def look_at(
        self,
        position: int,
        box: Box,
        shape: MaskShape | None,
        runs: np.ndarray | None,
        size: tuple[int, int],
    ) -> bool:
        """Compare a box with its mask, and both with their image.

        Args:
            position: which `findings` gives back.
            box: XYWH with an area.
            shape: of the mask, which is not empty; None without one.
            runs: of a mask in RLE.
            size: height, width of the image.

        Returns:
            Whether a part of it is inside of the image, and all in pixels.
        """
        height, width = size
        frame = 0.0, 0.0, float(width), float(height)
        if found := _find_normalized(box, shape, frame):
            self._differing.append(_Suspect(position, (), found, self._say(found, box, shape)))
            return False
        corners = _corners(box)
        self._read(box, shape is not None, frame)
        is_inside = _has_area(_clip(corners, frame))
        fits = shape is None or _fits(_clip(corners, frame), _clip(shape.bounds, frame))
        if shape is not None and (causes := _causes(box, shape, runs, frame, fits)):
            text = self._say(causes, box, shape)
            self._differing.append(_Suspect(position, causes, (), text))
        elif not is_inside:
            found = (kinds.BOX_NOWHERE,)
            self._outside.append(_Suspect(position, (), found, self._say(found, box, shape, size)))
        elif not fits:
            found = (kinds.BOX_DIFFERS,)
            self._differing.append(_Suspect(position, (), found, self._say(found, box, shape)))
        elif found := _find_outside(corners, shape, frame):
            self._outside.append(_Suspect(position, (), found, self._say(found, box, shape, size)))
        return is_inside

    def findings(self) -> Iterator[tuple[int, Kind, str]]:
        """Position, kind and text of each contradiction."""
        counts = Counter(cause for suspect in self._differing for cause in suspect.causes)
        for suspect in self._differing:
            found = suspect.otherwise
            if suspect.causes:
                found = (max(suspect.causes, key=lambda cause: counts[cause]),)
            yield from ((suspect.position, kind, suspect.text) for kind in found)
        cause = self._cause_of_outside()
        for suspect in self._outside:
            for kind in (cause,) if cause else suspect.otherwise:
                yield suspect.position, kind, suspect.text

    def _read(self, box: Box, has_mask: bool, frame: Bounds) -> None:
        self._num_boxes += 1
        x, y, width, height = box
        self._readings[kinds.AXES_SWAPPED] += not _reaches_out((y, x, y + height, x + width), frame)
        is_possible = not has_mask and width > x and height > y
        self._readings[kinds.BOX_XYXY] += is_possible and not _reaches_out(box, frame)

    def _cause_of_outside(self) -> Kind | None:
        """What would bring nearly all boxes into their images, if many are not."""
        if len(self._outside) < (1 - _MOST) * self._num_boxes:
            return None
        for cause in (kinds.BOX_XYXY, kinds.AXES_SWAPPED):
            if self._readings[cause] >= _MOST * self._num_boxes:
                return cause
        return None

    def _say(
        self,
        sort: Causes,
        box: Box,
        shape: MaskShape | None,
        size: tuple[int, int] | None = None,
    ) -> str:
        self._texts[sort] += 1
        if self._texts[sort] > _NUM_TEXTS:
            return ""
        text = f"has the 'bbox' {_numbers(box)}"
        if shape is not None:
            text += f", and a mask in {_numbers(_xywh(shape.bounds))}"
        return text if size is None else f"{text}; its image is {size[1]} wide and {size[0]} high"


def _find_normalized(box: Box, shape: MaskShape | None, frame: Bounds) -> Causes:
    _, _, width, height = frame
    if min(width, height) < _LEAST_SIDE:
        return ()
    is_box = min(box) >= 0 and max(box) <= 1
    is_mask = shape is not None and min(shape.bounds) >= 0 and max(shape.bounds) <= 1
    if shape is not None and is_box and not is_mask:
        scaled = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        is_box = any(_fits(corners, shape.bounds) for corners in _readings(scaled))
    found = (kinds.BOX_NORMALIZED,) if is_box else ()
    return (*found, kinds.POLYGON_NORMALIZED) if is_mask else found


def _find_outside(corners: Bounds, shape: MaskShape | None, frame: Bounds) -> Causes:
    found = (kinds.BOX_OUTSIDE,) if _reaches_out(corners, frame) else ()
    if shape is not None and _reaches_out(shape.bounds, frame):
        return (*found, kinds.POLYGON_OUTSIDE)
    return found


def _causes(
    box: Box, shape: MaskShape, runs: np.ndarray | None, frame: Bounds, fits: bool
) -> Causes:
    """Each reading of the box or the mask with which they agree, unless they do as they are."""
    x, y, width, height = box
    bounds = _clip(shape.bounds, frame)
    if fits:
        return (kinds.RLE_ORDER,) if _is_row_order(_corners(box), bounds, runs, frame) else ()
    swapped = [(y, x, y + height, x + width), (y, x, height, width)]
    found = []
    if width > x and height > y and _fits(_clip(box, frame), bounds):
        found.append(kinds.BOX_XYXY)
    if _fits(_clip(_corners((x - width / 2, y - height / 2, width, height)), frame), bounds):
        found.append(kinds.BOX_CENTER)
    if any(_fits(corners, shape.bounds) for corners in swapped):
        found.append(kinds.AXES_SWAPPED)
    if runs is not None and _fits(_corners(box), row_order_bounds(runs, int(frame[2]))):
        found.append(kinds.RLE_ORDER)
    return tuple(found)


def _is_row_order(corners: Bounds, bounds: Bounds, runs: np.ndarray | None, frame: Bounds) -> bool:
    """Whether a box that fits a large mask is exactly around it in row order alone."""
    if runs is None or _distance(corners, bounds) <= _TIGHT:
        return False
    in_rows = row_order_bounds(runs, int(frame[2]))
    return in_rows != frame and _distance(corners, in_rows) < _TIGHT


def _distance(corners: Bounds, bounds: Bounds) -> float:
    return max(abs(corner - bound) for corner, bound in zip(corners, bounds))


def _readings(box: Box) -> list[Bounds]:
    x, y, width, height = box
    return [_corners(box), box, _corners((x - width / 2, y - height / 2, width, height))]


def _corners(box: Box) -> Bounds:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def _xywh(bounds: Bounds) -> Box:
    return bounds[0], bounds[1], bounds[2] - bounds[0], bounds[3] - bounds[1]


def _fits(corners: Bounds, bounds: Bounds) -> bool:
    slack_x = _SLACK + _SHARE * (bounds[2] - bounds[0])
    slack_y = _SLACK + _SHARE * (bounds[3] - bounds[1])
    return (
        abs(corners[0] - bounds[0]) <= slack_x
        and abs(corners[2] - bounds[2]) <= slack_x
        and abs(corners[1] - bounds[1]) <= slack_y
        and abs(corners[3] - bounds[3]) <= slack_y
    )


def _reaches_out(corners: Bounds, frame: Bounds) -> bool:
    return (
        corners[0] < -_OUTSIDE
        or corners[1] < -_OUTSIDE
        or corners[2] > frame[2] + _OUTSIDE
        or corners[3] > frame[3] + _OUTSIDE
    )


def _clip(corners: Bounds, frame: Bounds) -> Bounds:
    return (
        min(max(corners[0], 0.0), frame[2]),
        min(max(corners[1], 0.0), frame[3]),
        min(max(corners[2], 0.0), frame[2]),
        min(max(corners[3], 0.0), frame[3]),
    )


def _has_area(corners: Bounds) -> bool:
    return min(corners[2] - corners[0], corners[3] - corners[1]) > LEAST_SIZE


def _numbers(values: Bounds) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
