"""At which size the model sees images, and whether training cuts windows out of them."""

from typing import NamedTuple

import numpy as np

from .statistics import DataStatistics
from .structures import Derived, Machine, Start, counted

# Pixels that all but the smallest quarter of the objects should measure where the model sees them:
# what COCO calls small ends there.
WANTED = 32
_CLEARLY = 1.25  # larger, so that a window is worth its while
_FEW_IMAGES = 20  # that windows make many of
_RATIOS = (5 / 3, 3.0)  # of long sides to short ones that inputs have room for


class Sizes(NamedTuple):
    """What `derive_sizes` decides.

    Attributes:
        scale: pixels that the model sees for one of the file.
        window: side, in pixels of the file, of the square that training cuts out; 0 for none.
        pixels: of the largest input in training, which memory depends on.
        input_side: pixels of the median short side of an input in training.
    """

    scale: float
    window: int
    pixels: int
    input_side: float


class _Limits(NamedTuple):
    """In pixels of what the model sees."""

    shortest: int
    short: int
    ratio: float  # of the long side to the short one
    window: int
    longest_test: int
    multiple: int  # of it sizes are


def derive_sizes(
    train: DataStatistics, val: DataStatistics, start: Start, machine: Machine
) -> tuple[Sizes, list[Derived]]:
    """Keys of INPUT, and what else depends on the sizes."""
    limits = _limits(start, machine)
    small, large = np.percentile(train.sizes, (25, 75))
    whole = _whole_scale(train, float(small), start, limits)
    near = min(WANTED / small, 2.0, limits.longest_test / val.long_side)
    if near > whole * _CLEARLY:
        window = round(limits.window / near)
        if window < 0.8 * train.short_side:
            why = (
                f"a quarter of the objects has at most {small:.0f} pixels a side,"
                f" {small * whole:.0f} in a whole input"
            )
            return _with_window(train, val, near, window, limits, why)
        whole = near
    if train.num_images < _FEW_IMAGES:
        window = round(max(3 * large, 0.75 * train.short_side))
        if window < train.short_side:
            why = f"{counted(train.num_images, 'image')}: windows of them make many"
            return _with_window(train, val, whole, window, limits, why)
    return _without_window(train, val, whole, start, limits)


def _limits(start: Start, machine: Machine) -> _Limits:
    short = start.short_side
    ratio = min(max(start.long_side / short, _RATIOS[0]), _RATIOS[1])
    if start.is_small:
        return _Limits(short, max(short, 256), ratio, max(short, 160), 768, 16)
    if machine.has_gpu:
        return _Limits(min(short, 320), short, ratio, min(short, 640), 2000, 32)
    return _Limits(min(short, 320), min(short, 480), ratio, min(short, 480), 1024, 32)


def _whole_scale(train: DataStatistics, small: float, start: Start, limits: _Limits) -> float:
    """Of whole images: at most as large as the limits let them be, and hardly ever enlarged."""
    short, long = train.short_side, train.long_side
    scale = min(limits.short / short, limits.short * limits.ratio / long)
    if start.is_small:  # no larger than the objects need
        scale = min(scale, WANTED / small)
    scale = min(scale, 2.0)
    return max(scale, min(limits.shortest / short, limits.short * limits.ratio / long))


def _with_window(
    train: DataStatistics,
    val: DataStatistics,
    scale: float,
    window: int,
    limits: _Limits,
    why: str,
) -> tuple[Sizes, list[Derived]]:
    side = window * scale
    sides = _distinct([side * factor for factor in (0.75, 1.0, 1.25)], limits.multiple)
    tiny = np.percentile(train.sizes, 25) * scale
    if tiny < WANTED / 2:
        why += f"; {tiny:.0f} in a window, which is little: cut such images into tiles first"
    keys = [
        Derived("INPUT.CROP.ENABLED", True, why),
        Derived("INPUT.CROP.TYPE", "absolute", "a window in pixels of the file"),
        Derived("INPUT.CROP.SIZE", [window, window], f"so {side:.0f} pixels for the model"),
        Derived("INPUT.MIN_SIZE_TRAIN", sides, "of a window; around the scale of evaluation"),
        Derived("INPUT.MAX_SIZE_TRAIN", round(1.5 * sides[-1]), "of windows at an image's border"),
        *_test_keys(val, scale, limits, "the scale of the windows"),
    ]
    return Sizes(scale, window, round(1.25 * sides[-1] ** 2), side), keys


def _without_window(
    train: DataStatistics, val: DataStatistics, scale: float, start: Start, limits: _Limits
) -> tuple[Sizes, list[Derived]]:
    side = train.short_side * scale
    (largest,) = sides = _distinct([side], limits.multiple)
    why = "one size: the model's, or what smaller objects need"
    if not start.is_small:
        sides = _distinct([largest * x for x in np.linspace(0.6, 1.0, 11)], limits.multiple)
        why = f"several sizes, up to {largest} for images of {_size(train)}"
    longest = round(largest * _ratio(train, limits))
    share = train.long_side / train.short_side
    keys = [
        Derived("INPUT.CROP.ENABLED", False, "objects are large enough in whole images"),
        Derived("INPUT.MIN_SIZE_TRAIN", sides, why),
        Derived("INPUT.MAX_SIZE_TRAIN", longest, "the long side, for the images' proportions"),
        *_test_keys(val, scale, limits, "as in training"),
    ]
    pixels = largest * min(round(largest * max(share, 1.0)), longest)
    return Sizes(scale, 0, pixels, float(largest)), keys


def _test_keys(val: DataStatistics, scale: float, limits: _Limits, why: str) -> list[Derived]:
    (short,) = _distinct([val.short_side * scale], limits.multiple)
    longest = round(short * _ratio(val, limits))
    views = _distinct([short * factor for factor in (0.875, 1.0, 1.125)], limits.multiple)
    return [
        Derived("INPUT.MIN_SIZE_TEST", short, f"{why}, for images of {_size(val)}"),
        Derived("INPUT.MAX_SIZE_TEST", longest, "the long side, for the images' proportions"),
        Derived("TEST.AUG.MIN_SIZES", views, "of --tta, around that size"),
    ]


def _ratio(data: DataStatistics, limits: _Limits) -> float:
    """Of long sides to short ones that inputs have room for: the limits', or the images' own."""
    return max(limits.ratio, min(1.05 * data.long_side / data.short_side, _RATIOS[1]))


def _distinct(sides: list[float], multiple: int) -> tuple[int, ...]:
    """Rounded to multiples, which no size falls short of."""
    rounded = {max(multiple, multiple * round(side / multiple)) for side in sides}
    return tuple(sorted(rounded))


def _size(data: DataStatistics) -> str:
    return f"{data.short_side:.0f}x{data.long_side:.0f} pixels"
