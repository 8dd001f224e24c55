"""What a mask must keep to before pycocotools sees it, whose C code checks nothing.

Coordinates that are huge or not finite, and RLE that does not fill its image, make it write outside
of its memory, allocate gigabytes, or never end.
"""

import reprlib
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
import pycocotools.mask as mask_util

from . import problem_kinds as kinds
from .findings import ProblemError

MAX_COORDINATE = 1_000_000  # pixels, of polygons and boxes; C code has five times it as an int
MAX_OUTLINE = 4_000_000  # pixels, of all polygons of a mask; drawing takes 40 bytes for each
MAX_MASK_PIXELS = 2**29 - 1  # what six characters, of five bits each, of an RLE text count to
MIN_POLYGON_NUMBERS = 6  # three points

_FIRST, _LAST = (
    48,
    111,
)  # the characters of an RLE text, of six bits: five of a number, one for more
_MAX_CHARACTERS = 6  # of a number

_PLAIN = frozenset((int, float))  # what JSON's numbers are
_MAX_TEXT = 160  # characters that a message quotes
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40


def to_rle(segmentation: Any, height: int, width: int, label: str = "a mask") -> dict[str, Any]:
    """Polygons (of at least 3 points; others are ignored) or any RLE as one compressed RLE.

    Raises:
        ValueError: `find_mask_problem` finds one; the message begins with `label`.
    """
    try:
        parsed = parse_mask(segmentation, height, width)
    except ProblemError as error:
        raise ValueError(f"{label} {error}") from None
    if isinstance(parsed, list):
        return draw(parsed, height, width)
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def draw(polygons: list[np.ndarray], height: int, width: int) -> dict[str, Any]:
    """What `parse_mask` returns of polygons as one compressed RLE."""
    polygons = [polygon for polygon in polygons if is_area(polygon)]
    if not polygons:
        return mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width))


def is_area(polygon: np.ndarray) -> bool:
    """Whether it has at least 3 points, each of two numbers."""
    return len(polygon) >= MIN_POLYGON_NUMBERS and len(polygon) % 2 == 0


def find_mask_problem(segmentation: Any, height: int, width: int) -> str:
    """Why pycocotools must not see this mask of an image; empty if it may."""
    try:
        parse_mask(segmentation, height, width)
    except ProblemError as error:
        return str(error)
    return ""


def parse_mask(segmentation: Any, height: int, width: int) -> list[np.ndarray] | np.ndarray:
    """The numbers of a mask of an image, all of which pycocotools may see.

    Args:
        segmentation: polygons, or RLE of any kind.

    Returns:
        Of polygons a list of x, y, x, y, ... each, float64, those too that are no areas; of RLE the
        lengths of its runs, background first, int64.

    Raises:
        ProblemError: it is none of both, or pycocotools must not see it.
    """
    if height * width > MAX_MASK_PIXELS:
        raise ProblemError(
            kinds.MASK_TOO_LARGE,
            f"is of an image of {height} x {width} pixels; masks have at most {MAX_MASK_PIXELS}",
        )
    if isinstance(segmentation, dict):
        return _parse_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ProblemError(
            kinds.MASK_TYPE,
            f"has a 'segmentation' of type {type(segmentation).__name__}, which must be a list of "
            "polygons [[x1, y1, x2, y2, ...], ...] or RLE {'size': [height, width], 'counts': ...}",
        )
    polygons = [_parse_polygon(polygon) for polygon in segmentation]
    outline = sum(map(_bound_outline, polygons))
    if outline > MAX_OUTLINE:
        raise ProblemError(
            kinds.POLYGON_TOO_LONG,
            f"has polygons of {outline:.0f} pixels of outline; at most {MAX_OUTLINE} are drawn",
        )
    return polygons


def _parse_polygon(polygon: Any) -> np.ndarray:
    if not isinstance(polygon, (list, tuple, np.ndarray)):
        raise ProblemError(
            kinds.MASK_TYPE,
            f"has {shorten(polygon)} in its 'segmentation' where a polygon belongs; it must "
            "be a list of polygons, each a list of its own: [[x1, y1, x2, y2, ...], ...]",
        )
    coordinates = _as_numbers(polygon)
    if coordinates is None:
        wrong = [typed(x) for x in polygon if not is_coordinate(x)] or ["this"]
        raise ProblemError(
            kinds.POLYGON_NUMBERS,
            f"has the polygon {shorten(polygon, 50)} in its 'segmentation', which must hold "
            f"numbers from -{MAX_COORDINATE} to {MAX_COORDINATE}, not {wrong[0]}",
        )
    return coordinates


def is_coordinate(value: Any) -> bool:
    """Whether it is a number of pixels, in the sense of JSON."""
    return is_number(value) and abs(value) <= MAX_COORDINATE  # NaN is not


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one in the sense of JSON: a bool is none."""
    kind = type(value)
    return kind is int or kind is float or (isinstance(value, Real) and kind is not bool)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether it is an integer in the sense of JSON: a bool is none, nor is 3.0."""
    kind = type(value)
    return kind is int or (isinstance(value, Integral) and kind is not bool)


def typed(value: Any) -> str:
    """As `shorten`, with the type: 1 and "1" look alike."""
    return "None (null)" if value is None else f"{shorten(value)} ({type(value).__name__})"


def shorten(value: Any, max_length: int = _MAX_TEXT) -> str:
    """A value of unknown kind and size, for a message."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python's limit of digits
        return f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def _as_numbers(polygon: Any) -> np.ndarray | None:
    """The coordinates as float64; None if they are not all numbers within the limit."""
    if isinstance(polygon, np.ndarray):
        if polygon.dtype.kind not in "iuf":
            return None
    elif not _PLAIN.issuperset(kinds_found := set(map(type, polygon))):
        if not all(issubclass(t, Real) and t is not bool for t in kinds_found):
            return None
    try:
        coordinates = np.asarray(polygon, dtype=np.float64).ravel()
    except OverflowError:  # an integer of hundreds of digits
        return None
    if len(coordinates) and not np.abs(coordinates).max() <= MAX_COORDINATE:  # NaN is not
        return None
    return coordinates


def _bound_outline(coordinates: np.ndarray) -> float:
    """At least the steps that C code makes along the outline, in pixels; exact if they are many."""
    if not len(coordinates):
        return 0.0
    bound = len(coordinates) * np.abs(coordinates).max()
    if bound <= MAX_OUTLINE / 100:  # almost always
        return float(bound)
    points = coordinates[: len(coordinates) // 2 * 2].reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1, initial=0).sum())


def _parse_rle(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(counts, (list, str, bytes)):
        raise ProblemError(
            kinds.RLE_COUNTS,
            f"has an RLE 'segmentation' with 'counts' {typed(counts)}: a list or text needed",
        )
    sides = list(size) if isinstance(size, (list, tuple)) else []
    if not all(map(is_integer, sides)) or sides != [height, width]:
        raise ProblemError(
            kinds.RLE_SIZE,
            f"has an RLE 'segmentation' of 'size' {shorten(size)}, its image has [height, width] "
            f"{[height, width]}",
        )
    most = 2 * height * width + 1  # runs, if each second one has no pixel
    if len(counts) > (most if isinstance(counts, list) else most * _MAX_CHARACTERS):
        what = "numbers" if isinstance(counts, list) else "characters"
        raise ProblemError(
            kinds.RLE_COUNTS,
            f"has an RLE 'segmentation' whose 'counts' are {len(counts)} {what}, too many for its "
            f"image of {height} x {width} pixels",
        )
    try:
        runs = _as_runs(counts) if isinstance(counts, list) else decode_runs(counts)
    except ValueError as error:
        raise ProblemError(
            kinds.RLE_COUNTS,
            f"has an RLE 'segmentation' whose 'counts' {shorten(counts, 80)} {error}",
        ) from None
    if runs.sum() != height * width:
        raise ProblemError(
            kinds.RLE_COUNTS,
            f"has an RLE 'segmentation' whose 'counts' add up to {runs.sum()} pixels, its image "
            f"has {height} x {width} = {height * width}",
        )
    return runs


def decode_runs(counts: str | bytes) -> np.ndarray:
    """The lengths of the runs of a compressed RLE, background first.

    Each number is written in characters of five bits, the lowest first; from the fourth one on it
    is the difference to the last but one.

    Returns:
        (number of runs,), int64, each in [0, MAX_MASK_PIXELS].

    Raises:
        ValueError: the text is no RLE; the message goes on after "'counts' ...".
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise ValueError("have characters outside of ASCII") from None
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    if ((codes < _FIRST) | (codes > _LAST)).any():
        raise ValueError("have characters that no RLE text has")
    codes -= _FIRST
    (ends,) = np.nonzero(codes < 32)  # 32 says that the number goes on
    if len(codes) and (not len(ends) or ends[-1] != len(codes) - 1):
        raise ValueError("end within a number")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if (lengths > _MAX_CHARACTERS).any():
        raise ValueError(f"have a number of more than {_MAX_CHARACTERS} characters")
    if not len(ends):
        return codes
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)  # the sign
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return _bounded(runs)


def _as_runs(counts: list[Any]) -> np.ndarray:
    if not all(
        t is int or issubclass(t, Integral) and t is not bool for t in set(map(type, counts))
    ):
        raise ValueError("must be integers")
    try:
        return _bounded(np.asarray(counts, dtype=np.int64))
    except OverflowError:
        raise ValueError(f"must be at most {MAX_MASK_PIXELS}") from None


def _bounded(runs: np.ndarray) -> np.ndarray:
    if len(runs) and (runs.min() < 0 or runs.max() > MAX_MASK_PIXELS):
        worst = runs.min() if runs.min() < 0 else runs.max()
        raise ValueError(f"must be from 0 to {MAX_MASK_PIXELS}, not {worst}")
    return runs
