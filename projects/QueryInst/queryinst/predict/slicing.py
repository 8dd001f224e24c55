"""Large images, predicted in tiles that overlap and as a whole, in one result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from queryinst_runtime.masks import Rle, encode_crop
from queryinst_runtime.results import Result

Detect = Callable[[list[np.ndarray]], list[Result]]

MIN_IOU = 0.5  # of the masks of one object, within the pixels that both views have
_BORDER = 0.02  # of a tile's side: what ends nearer to its border counts as cut
_SMALLEST, _MOST_OVERLAP = 16, 0.9


class View(NamedTuple):
    """A tile, or the whole image, in pixels of the image."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass
class _Pieces:
    """What the views found, P objects or parts of objects, in pixels of the image."""

    boxes: np.ndarray  # (P, 4) XYXY
    scores: np.ndarray  # (P,)
    classes: np.ndarray  # (P,)
    query_idx: np.ndarray  # (P,)
    view_idx: np.ndarray  # (P,)
    is_cut: np.ndarray  # (P,) bool, by a border of its view within the image
    rles: list[Rle]  # of the boxes if there are no masks


def detect_sliced(
    detect: Detect, image: np.ndarray, size: int, overlap: float = 0.2, batch: int = 1
) -> Result:
    """Predict on overlapping tiles and on the whole image, and merge what they find.

    Two views see the same object if it has one class in both and the masks agree (IoU >= 0.5)
    within the pixels that both views have. An object that some view has whole is taken from that
    view, the one with the highest score; the pieces of one that every view cuts are joined. Of the
    whole image only objects count that are larger than the overlap: smaller ones are whole in a
    tile.

    Masks exist as run-length codes; as pixels only one at a time.

    Args:
        detect: images -> results, for images of any size.
        image: (H, W, 3) uint8.
        size: of a tile's sides, in pixels.
        overlap: of two neighbouring tiles, as a part of their sides.
        batch: tiles that are predicted at once.

    Returns:
        Every object, by falling score, which is the highest of its pieces'. `query_idx` is -1
        where pieces were joined. An image that one tile covers is predicted as it is.

    Raises:
        ValueError: `size` or `overlap` is out of range.
    """
    height, width = image.shape[:2]
    views = tiles(height, width, size, overlap)
    if not views:
        return detect([image])[0]
    whole = View(0, 0, width, height)
    (seen,) = detect([image])
    found = [_to_image(_larger_than(seen, size * overlap), whole, len(views), whole)]
    for start in range(0, len(views), batch):
        part = views[start : start + batch]
        results = detect(
            [np.ascontiguousarray(image[v.top : v.bottom, v.left : v.right]) for v in part]
        )
        for index, result in enumerate(results, start):
            found.append(_to_image(result, views[index], index, whole))
    pieces = _concatenate(found)
    return _merge(pieces, _Agreement(pieces, [*views, whole]), seen)


def tiles(height: int, width: int, size: int, overlap: float) -> list[View]:
    """Tiles of `size` x `size` pixels that cover an image; none if one would.

    The last of a row or column ends with the image and overlaps more.

    Raises:
        ValueError: as `detect_sliced`.
    """
    check_slices(size, overlap)
    if max(height, width) <= size:
        return []
    return [
        View(left, top, min(left + size, width), min(top + size, height))
        for top in _starts(height, size, overlap)
        for left in _starts(width, size, overlap)
    ]


def check_slices(size: int, overlap: float) -> None:
    """
    Raises:
        ValueError: `size` is no whole number of at least 16, or `overlap` is not in [0, 0.9].
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < _SMALLEST:
        raise ValueError(f"slice {size!r} must be a whole number of at least {_SMALLEST} pixels")
    is_number = isinstance(overlap, (int, float, np.number)) and not isinstance(overlap, bool)
    if not is_number or not 0 <= overlap <= _MOST_OVERLAP:
        raise ValueError(f"overlap {overlap!r} must be a number in [0, {_MOST_OVERLAP}]")


def _starts(length: int, size: int, overlap: float) -> list[int]:
    step = max(1, int(size * (1 - overlap)))
    return [*range(0, max(length - size, 0), step), max(length - size, 0)]


def _larger_than(result: Result, side: float) -> Result:
    sides = result.boxes[:, 2:] - result.boxes[:, :2]
    return result[sides.max(1, initial=0) > side]


def _to_image(result: Result, view: View, index: int, whole: View) -> _Pieces:
    """A view's result in pixels of the image."""
    width, height = whole.right, whole.bottom
    boxes = result.boxes + np.array([view.left, view.top] * 2, np.float32)
    at_least = _BORDER * np.array([view.right - view.left, view.bottom - view.top] * 2)
    is_near = np.abs(boxes - np.array(view)) <= at_least  # (n, 4): left, top, right, bottom
    is_inside = np.array(view) != np.array(whole)
    rles = []
    for place in range(len(result)):
        top, left, mask = result.crop(place) if result.has_masks else _box_crop(result.boxes[place])
        rles.append(encode_crop(top + view.top, left + view.left, mask, height, width))
    return _Pieces(
        boxes=boxes,
        scores=result.scores,
        classes=result.classes,
        query_idx=result.query_idx,
        view_idx=np.full(len(result), index),
        is_cut=(is_near & is_inside).any(1),
        rles=rles,
    )


def _box_crop(box: np.ndarray) -> tuple[int, int, np.ndarray]:
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    return top, left, np.ones((bottom - top, right - left), bool)


def _concatenate(parts: list[_Pieces]) -> _Pieces:
    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return _Pieces(
        boxes=join("boxes"),
        scores=join("scores"),
        classes=join("classes"),
        query_idx=join("query_idx"),
        view_idx=join("view_idx"),
        is_cut=join("is_cut"),
        rles=[rle for part in parts for rle in part.rles],
    )


class _Agreement:
    """Which pieces are of one object."""

    def __init__(self, pieces: _Pieces, views: list[View]):
        self._pieces = pieces
        self._views = views
        self._region = lru_cache(maxsize=1024)(self._make_region)
        self._within = lru_cache(maxsize=4096)(self._make_within)

    def rows_like(self, row: int, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that are of the object of the piece `row`."""
        pieces = self._pieces
        is_possible = pieces.classes[rows] == pieces.classes[row]
        is_possible &= pieces.view_idx[rows] != pieces.view_idx[row]
        box, boxes = pieces.boxes[row], pieces.boxes[rows]
        is_possible &= (boxes[:, :2] < box[2:]).all(1) & (boxes[:, 2:] > box[:2]).all(1)
        return np.array([other for other in rows[is_possible] if self._agree(row, int(other))], int)

    def _agree(self, one: int, other: int) -> bool:
        pieces = self._pieces
        views = sorted((int(pieces.view_idx[one]), int(pieces.view_idx[other])))
        if self._region(*views) is None:
            return False
        seen = [[self._within(row, *views)] for row in (one, other)]
        return bool(mask_utils.iou(*seen, [0])[0, 0] >= MIN_IOU)

    def _make_region(self, one: int, other: int) -> Rle | None:
        """The pixels that two views have both."""
        a, b = self._views[one], self._views[other]
        left, top = max(a.left, b.left), max(a.top, b.top)
        right, bottom = min(a.right, b.right), min(a.bottom, b.bottom)
        if right <= left or bottom <= top:
            return None
        inside = np.ones((bottom - top, right - left), bool)
        return encode_crop(top, left, inside, self._views[-1].bottom, self._views[-1].right)

    def _make_within(self, row: int, one: int, other: int) -> Rle:
        return mask_utils.merge([self._pieces.rles[row], self._region(one, other)], intersect=True)


def _merge(pieces: _Pieces, agreement: _Agreement, like: Result) -> Result:
    """Join or choose among the pieces; the other fields are those of `like`."""
    order = np.lexsort((-pieces.scores, pieces.is_cut))  # the whole ones first, the best first
    left, objects = order, []
    while len(left):
        best, left = int(left[0]), left[1:]
        members, grown = [best], [best]
        while grown:
            more = agreement.rows_like(grown.pop(), left)
            left = left[~np.isin(left, more)]
            members += more.tolist()
            # What a view has whole ends there. The ends of a piece may go on in the next tile.
            grown += [row for row in more.tolist() if pieces.is_cut[best]]
        objects.append(members)
    objects.sort(key=lambda members: -pieces.scores[members].max())
    columns = [_object_of(pieces, members) for members in objects]
    boxes, query_idx, rles = zip(*columns) if columns else ((), (), ())
    return replace(
        like,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array([pieces.scores[m].max() for m in objects], np.float32),
        classes=np.array([pieces.classes[m[0]] for m in objects], np.int64),
        query_idx=np.array(query_idx, np.int64),
        rles=list(rles) if like.has_masks else None,
        mask_scores=None,
        mask_boxes=None,
    )


def _object_of(pieces: _Pieces, members: list[int]) -> tuple[np.ndarray, int, Rle]:
    """Box, query and mask of one object: of the first member if it is whole, else of all."""
    best = members[0]
    if not pieces.is_cut[best] or len(members) == 1:
        return pieces.boxes[best], int(pieces.query_idx[best]), pieces.rles[best]
    boxes = pieces.boxes[members]
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    return box, -1, _as_text(mask_utils.merge([pieces.rles[row] for row in members]))


def _as_text(rle: dict) -> Rle:
    """A code of pycocotools' with its counts as a str, as JSON takes it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}
