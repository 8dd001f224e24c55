"""One scene of the data set `shapes`: what is drawn, where, in which colours, what stays visible.

The same key gives the same bytes on every machine: the numbers come from `RandomState`, whose
stream NumPy keeps frozen, corners are rounded to 1/16 px before an exact rasterisation in integers,
and no pixel depends on a library's drawing.
"""

from math import cos, pi, sin
from typing import NamedTuple, Sequence

import numpy as np

CLASSES = ("ellipse", "triangle", "star")
IMAGE_SIZE = 128  # pixels, height and width
MAX_INSTANCES = 6
NUM_INSTANCES = (0.10, 0.20, 0.30, 0.25, 0.10, 0.05)  # share of the images with 1, 2, ... of them
MIN_VISIBLE = 0.65  # of a shape's pixels in the image; a placement that hides more is drawn anew

_SUBPIXEL = 16  # steps of a corner's coordinate in one pixel
_RADIUS = (18.0, 38.0)  # pixels, of the circle around a shape
_DISTRACTORS = ("cross", "line", "ring", "dots")
_MAX_DISTRACTORS = 3
_TRIES = 40  # placements of one item before it is left out; candidates for one colour
_NOISE = 10  # grey levels either side, every pixel and channel on its own
_BACKGROUND_CHROMA = 20.0  # grey levels that the channels of a background may be off from grey
_MIN_CHROMA = 90.0  # range of an item's channels: items are more colourful than backgrounds
_BACKGROUND_CONTRAST = 110.0  # least distance of colours in RGB, 0 to 441
_MUTUAL_CONTRAST = 80.0

Points = list[tuple[float, float]]  # corners (x, y) in pixels of a closed polygon


class ShapeInstance(NamedTuple):
    """What is seen of one shape."""

    class_idx: int  # into CLASSES
    mask: np.ndarray  # (H, W) bool, without the parts that later items hide
    visible_fraction: float  # of the pixels that the shape alone would have in this image


class Scene(NamedTuple):
    """An image and all of its instances, back to front."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    instances: list[ShapeInstance]


class _Item(NamedTuple):
    class_idx: int  # -1: a distractor
    mask: np.ndarray  # (H, W) bool, all of it
    visible: np.ndarray  # (H, W) bool


def draw_scene(key: Sequence[int]) -> Scene:
    """Draw the scene that belongs to `key`, non-negative integers such as (seed, split, image)."""
    rng = np.random.RandomState(list(key))
    items = _place_items(rng)
    image = _paint(rng, items)
    instances = [
        ShapeInstance(item.class_idx, item.visible, float(item.visible.sum() / item.mask.sum()))
        for item in items
        if item.class_idx >= 0
    ]
    return Scene(image, instances)


def _place_items(rng: np.random.RandomState) -> list[_Item]:
    """Shapes and distractors, back to front; a distractor lies rather behind than in front."""
    num_shapes = 1 + int(np.searchsorted(np.cumsum(NUM_INSTANCES), rng.uniform()))
    kinds = list(rng.randint(len(CLASSES), size=min(num_shapes, MAX_INSTANCES)))
    for _ in range(rng.randint(1, _MAX_DISTRACTORS + 1)):
        kinds.insert(min(rng.randint(len(kinds) + 1, size=2)), -1)
    items: list[_Item] = []
    for kind in kinds:
        for _ in range(_TRIES):
            mask = rasterize(_distractor(rng) if kind < 0 else _shape(rng, CLASSES[kind]))
            covered = [item._replace(visible=item.visible & ~mask) for item in items]
            if mask.any() and all(_is_visible(item) for item in covered):
                items = covered + [_Item(int(kind), mask, mask)]
                break
    return items


def _is_visible(item: _Item) -> bool:
    return item.class_idx < 0 or item.visible.sum() >= MIN_VISIBLE * item.mask.sum()


def _shape(rng: np.random.RandomState, name: str) -> list[Points]:
    radius, turn = rng.uniform(*_RADIUS), rng.uniform(0, 2 * pi)
    # A shape may reach over the image's border, but not with more than about a third.
    center = rng.uniform(0.45 * radius, IMAGE_SIZE - 0.45 * radius, size=2)
    if name == "ellipse":
        points = _ellipse_points(radius, radius * rng.uniform(0.55, 1.0))
    elif name == "triangle":
        angles = [pi / 3 * (2 * corner + rng.uniform(-0.3, 0.3)) for corner in range(3)]
        points = [(radius * cos(angle), radius * sin(angle)) for angle in angles]
    else:
        inner = radius * rng.uniform(0.42, 0.55)
        radii = [inner if corner % 2 else radius for corner in range(10)]
        points = [(r * cos(pi / 5 * i), r * sin(pi / 5 * i)) for i, r in enumerate(radii)]
    return [_move(points, turn, center)]


def _distractor(rng: np.random.RandomState) -> list[Points]:
    name = _DISTRACTORS[rng.randint(len(_DISTRACTORS))]
    center, turn = rng.uniform(4, IMAGE_SIZE - 4, size=2), rng.uniform(0, 2 * pi)
    if name == "ring":
        outer = rng.uniform(6, 14)
        loops = [_ellipse_points(outer, outer), _ellipse_points(outer - 2.5, outer - 2.5)]
    elif name == "line":
        loops = [_bar_points(rng.uniform(20, 80), 2.0)]
    elif name == "cross":
        arm, half = rng.uniform(7, 14), 1.5
        quarter = [(half, half), (half, arm), (-half, arm)]
        loops = [[p for k in range(4) for p in _move(quarter, k * pi / 2, (0, 0))]]
    else:
        offsets = rng.uniform(-14, 14, size=(rng.randint(2, 6), 2))
        return [_move(_ellipse_points(2.2, 2.2), 0, center + offset) for offset in offsets]
    return [_move(points, turn, center) for points in loops]


def _ellipse_points(radius_x: float, radius_y: float) -> Points:
    angles = [2 * pi * i / 40 for i in range(40)]
    return [(radius_x * cos(angle), radius_y * sin(angle)) for angle in angles]


def _bar_points(length: float, width: float) -> Points:
    x, y = length / 2, width / 2
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _move(points: Points, turn: float, center: Sequence[float] | np.ndarray) -> Points:
    c, s = cos(turn), sin(turn)
    return [(c * x - s * y + center[0], s * x + c * y + center[1]) for x, y in points]


def rasterize(loops: Sequence[Points]) -> np.ndarray:
    """The pixels whose centres lie inside of closed polygons, by the even-odd rule.

    Args:
        loops: corners (x, y) in pixels; the image's upper left corner is (0, 0). A hole is a
            further loop.

    Returns:
        (IMAGE_SIZE, IMAGE_SIZE) bool.
    """
    corners = [np.rint(np.asarray(loop) * _SUBPIXEL).astype(np.int64) for loop in loops]
    starts = np.concatenate(corners)  # (E, 2)
    ends = np.concatenate([np.roll(loop, -1, axis=0) for loop in corners])
    low = np.clip(starts.min(0) // _SUBPIXEL, 0, IMAGE_SIZE)  # all else is outside: skip it
    high = np.clip(starts.max(0) // _SUBPIXEL + 1, 0, IMAGE_SIZE)
    px = (np.arange(low[0], high[0]) * _SUBPIXEL + _SUBPIXEL // 2)[None, None, :]
    py = (np.arange(low[1], high[1]) * _SUBPIXEL + _SUBPIXEL // 2)[None, :, None]
    x0, y0, x1, y1 = (v[:, None, None] for v in (*starts.T, *ends.T))
    spans_row = (y0 <= py) != (y1 <= py)  # (E, h, 1)
    is_left = ((x1 - x0) * (py - y0) > (px - x0) * (y1 - y0)) == (y1 > y0)  # of the edge
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    mask[low[1] : high[1], low[0] : high[0]] = np.logical_xor.reduce(spans_row & is_left, axis=0)
    return mask


def _paint(rng: np.random.RandomState, items: Sequence[_Item]) -> np.ndarray:
    """Background, items and noise: (H, W, 3) uint8. The colours know nothing of the classes."""
    background = rng.uniform(50, 205) + rng.uniform(-_BACKGROUND_CHROMA, _BACKGROUND_CHROMA, size=3)
    image = background + _clouds(rng, 16) + _stripes(rng, rng.uniform(0, 8))
    taken: list[np.ndarray] = []
    for item in items:
        color = _pick_color(rng, background, taken)
        taken.append(color)
        fill = color + _clouds(rng, 10) + _stripes(rng, rng.uniform(0, 10))
        image[item.mask] = fill[item.mask]
    noise = rng.randint(-_NOISE, _NOISE + 1, size=image.shape)
    return np.clip(np.rint(image) + noise, 0, 255).astype(np.uint8)


def _pick_color(
    rng: np.random.RandomState, background: np.ndarray, taken: Sequence[np.ndarray]
) -> np.ndarray:
    """A colour that stands out; the one that does best if none is far enough from all others."""
    best, best_margin = background, -np.inf
    for _ in range(_TRIES):
        color = rng.uniform(15, 240, size=3)
        margins = [_distance(color, other) - _MUTUAL_CONTRAST for other in taken]
        margins += [
            _distance(color, background) - _BACKGROUND_CONTRAST,
            np.ptp(color) - _MIN_CHROMA,
        ]
        margin = min(margins)
        if margin > best_margin:
            best, best_margin = color, margin
        if margin >= 0:
            break
    return best


def _distance(color: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(color - other).sum()))


def _clouds(rng: np.random.RandomState, amplitude: float) -> np.ndarray:
    """Smooth variation (H, W, 3) within +-amplitude: random knots, interpolated linearly."""
    knots = rng.uniform(-amplitude, amplitude, size=(5, 5, 3))
    at = np.arange(IMAGE_SIZE) * 4 / IMAGE_SIZE
    cell = at.astype(int)
    rest = (at - cell)[:, None, None]
    rows = knots[cell] * (1 - rest) + knots[cell + 1] * rest  # (H, 5, 3)
    rest = (at - cell)[None, :, None]
    return rows[:, cell] * (1 - rest) + rows[:, cell + 1] * rest


def _stripes(rng: np.random.RandomState, amplitude: float) -> np.ndarray:
    """Stripes (H, W, 1) of +-amplitude in a random direction, 3 to 8 pixels wide."""
    step_x, step_y = rng.randint(-8, 9, size=2)
    width = 8 * rng.randint(3, 9)
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    is_odd = (step_x * x + step_y * y) // width % 2
    return np.where(is_odd, amplitude, -amplitude)[..., None]
