"""At which size the model sees images, and whether training cuts windows out of them."""

from typing import NamedTuple

import numpy as np

from ..wording import counted
from .statistics import DataStatistics
from .structures import Derived, Machine, Start

# Pixels that all but the smallest quarter of the objects should measure where the model sees them:
# what COCO calls small ends there.
WANTED = 32
_CLEARLY = 1.25  # larger, so that a window is worth its while
_FEW_IMAGES = 20  # that parts of them make many of
_LARGE_PART, _PART = 0.7, 0.5  # least share of an image's side that is cut out of it
_RATIOS = (5 / 3, 3.0)  # of long sides to short ones that inputs have room for


class Sizes(NamedTuple):
    """What `derive_sizes` decides.

    Attributes:
        scale: pixels that the model sees for one of the file.
        window: side, in pixels of the file, of the square that training cuts out; 0 for parts of
            an image up to all of it.
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
    longest: int  # of an image whose objects are enlarged
    multiple: int  # of it sizes are


def derive_sizes(
    train: DataStatistics, val: DataStatistics, start: Start, machine: Machine
) -> tuple[Sizes, list[Derived]]:
    """Keys of INPUT, and what else depends on the sizes."""
    limits = _limits(start, machine)
    small = float(np.percentile(train.sizes, 25))
    # What the model sees in evaluation, and so should see in training.
    is_cut = train.short_side > _CLEARLY * val.short_side
    seen = val if is_cut else train
    whole = _whole_scale(seen, small, start, limits)
    near = min(WANTED / small, 2.0, limits.longest / max(seen.long_side, val.long_side))
    is_enlarged = near > whole * _CLEARLY
    scale = near if is_enlarged else whole
    if is_cut:
        return _with_window(val, scale, limits)
    if is_enlarged:
        why = (
            f"a quarter of the objects has at most {small:.0f} pixels a side, {small * whole:.0f}"
            " in an input of the usual size: parts of images are shown larger"
        )
        return _with_parts(train, val, scale, _PART, why, limits)
    if train.num_images < _FEW_IMAGES:
        why = f"{counted(train.num_images, 'image')}: parts of them make many"
        return _with_parts(train, val, scale, _LARGE_PART, why, limits)
    return _without_window(train, val, scale, start, limits)


def small_objects(
    train: DataStatistics, val: DataStatistics, short: int, longest: int
) -> tuple[str, ...]:
    """A note if many objects are too small where the model sees them.

    Args:
        short, longest: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST.
    """
    scale = min(short / val.short_side, longest / val.long_side)
    small = np.percentile(train.sizes, 25)
    if small * scale >= WANTED / 2:
        return ()
    return (
        f"a quarter of the objects has at most {small:.0f} pixels a side, {small * scale:.0f} where"
        " the model sees them, which is little: cut such images into tiles first",
    )


def _limits(start: Start, machine: Machine) -> _Limits:
    short = start.short_side
    ratio = min(max(start.long_side / short, _RATIOS[0]), _RATIOS[1])
    if start.is_small:
        return _Limits(short, max(short, 256), ratio, 512, 16)
    if machine.has_gpu:
        return _Limits(min(short, 320), short, ratio, 1600, 32)
    return _Limits(min(short, 320), min(short, 480), ratio, 1024, 32)


def _whole_scale(seen: DataStatistics, small: float, start: Start, limits: _Limits) -> float:
    """Of whole images: at most as large as the limits let them be, and hardly ever enlarged."""
    short, long = seen.short_side, seen.long_side
    scale = min(limits.short / short, limits.short * limits.ratio / long)
    if start.is_small:  # no larger than the objects need
        scale = min(scale, WANTED / small)
    scale = min(scale, 2.0)
    return max(scale, min(limits.shortest / short, limits.short * limits.ratio / long))


def _with_window(val: DataStatistics, scale: float, limits: _Limits) -> tuple[Sizes, list[Derived]]:
    """Windows as large as the images of the evaluation, which are smaller."""
    window = round(val.short_side)
    side = window * scale
    sides = _distinct([side * factor for factor in (0.75, 1.0, 1.25)], limits.multiple)
    keys = [
        Derived("INPUT.CROP.ENABLED", True, "windows as large as the images held out"),
        Derived("INPUT.CROP.TYPE", "absolute", "a window in pixels of the file"),
        Derived("INPUT.CROP.SIZE", [window, window], f"so {side:.0f} pixels for the model"),
        Derived("INPUT.MIN_SIZE_TRAIN", sides, "of a window; around the scale of evaluation"),
        Derived("INPUT.MAX_SIZE_TRAIN", round(1.5 * sides[-1]), "of windows at an image's border"),
        *_test_keys(val, scale, limits, "the scale of the windows"),
    ]
    return Sizes(scale, window, round(1.25 * sides[-1] ** 2), side), keys


def _with_parts(
    train: DataStatistics,
    val: DataStatistics,
    scale: float,
    least: float,
    why: str,
    limits: _Limits,
) -> tuple[Sizes, list[Derived]]:
    """Large parts of the images, in which objects are about as large as in whole ones.

    A query's box and what it has learned are relative to the input, so that windows much smaller
    than what is evaluated teach it sizes and numbers of objects that it will not meet.
    """
    middle = train.short_side * scale * (1 + least) / 2
    sides = _distinct([middle * factor for factor in (0.75, 1.0, 1.25)], limits.multiple)
    longest = max(round(1.25 * train.long_side * scale), sides[-1])
    keys = [
        Derived("INPUT.CROP.ENABLED", True, why),
        Derived("INPUT.CROP.TYPE", "relative_range", "shares of the image's height and width"),
        Derived("INPUT.CROP.SIZE", [least, least], "at least, up to all of it"),
        Derived("INPUT.MIN_SIZE_TRAIN", sides, "of a part; around the scale of evaluation"),
        Derived("INPUT.MAX_SIZE_TRAIN", longest, "the long side, a little above evaluation's"),
        *_test_keys(val, scale, limits, "as in training"),
    ]
    return Sizes(scale, 0, sides[-1] * longest, middle), keys


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
