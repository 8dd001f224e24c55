"""Charts of a data set's figures, as SVG."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..report.svg import COLOURS, GRAY, STYLE, as_svg, clear_frame, new_figure
from .check_text import printable
from .statistics import SIZE_BOUNDS, SplitStatistics, TrainingScale

_WIDTH, _HEIGHT = 640, 300  # points
_FRAME = (60 / _WIDTH, 48 / _HEIGHT, 560 / _WIDTH, 218 / _HEIGHT)  # left, bottom, width, height
_MAX_CLASSES = 30
_BAR = 18  # points, of a class
_NAMES = 200  # points, for the classes' names
_MAX_NAME = 26  # characters


def size_chart(parts: Sequence[SplitStatistics]) -> str:
    """How large objects are in training: shares by their sides; empty without objects."""
    values = {part.name: part.object_sizes for part in parts if len(part.object_sizes)}
    if not values:
        return ""
    low = max(1, min(x.min() for x in values.values()))
    high = max(2 * low, max(x.max() for x in values.values()))
    edges = 2.0 ** np.arange(np.floor(np.log2(low) * 2) / 2, np.log2(high) + 1, 0.5)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        _draw_shares(axes, values, edges, "of objects")
        _mark(axes, dict.fromkeys(SIZE_BOUNDS, ""))
        axes.set_xlabel("side of an object in training, in pixels (square root of its area)")

    return _chart(draw)


def count_chart(parts: Sequence[SplitStatistics], scale: TrainingScale) -> str:
    """How many objects images have: shares of images; empty without images."""
    values = {part.name: part.objects_per_image for part in parts if part.num_images}
    if not values:
        return ""
    highest = max(int(x.max()) for x in values.values())
    step = max(1, -(-highest // 60))
    edges = np.arange(0, highest + 2 * step, step) - 0.5

    def draw(axes: Axes) -> None:
        _draw_shares(axes, values, edges, "of images")
        limits = {scale.num_queries: "queries", scale.detections: "detections kept"}
        _mark(axes, {x: label for x, label in limits.items() if x < 1.5 * highest})
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("objects in an image")

    return _chart(draw)


def class_chart(parts: Sequence[SplitStatistics]) -> str:
    """How many objects the most frequent classes have in each part; empty without objects."""
    counts = {part.name: {x.name: x.num_objects for x in part.classes()} for part in parts}
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    names.sort(key=lambda name: -sum(found.get(name, 0) for found in counts.values()))
    names = names[:_MAX_CLASSES]
    if not any(part.num_objects for part in parts):
        return ""
    height = _BAR * len(names) + 76
    frame = (_NAMES / _WIDTH, 42 / height, (_WIDTH - _NAMES - 30) / _WIDTH, 1 - 76 / height)

    def draw(axes: Axes) -> None:
        thickness = 0.8 / len(counts)
        places = np.arange(len(names))
        for number, (part, found) in enumerate(counts.items()):
            widths = [found.get(name, 0) for name in names]
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(places + thickness * number, widths, thickness, color=colour, label=part)
        axes.set_yticks(places, [_short(name) for name in names])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("objects")
        clear_frame(axes)
        axes.grid(visible=False, axis="y")

    return _chart(draw, height, frame)


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 1]}…"


def _chart(
    draw: Callable[[Axes], None],
    height: float = _HEIGHT,
    frame: tuple[float, float, float, float] = _FRAME,
) -> str:
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, height)
        axes = figure.add_axes(frame)
        draw(axes)
        axes.xaxis.label.set_color(GRAY)
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    return as_svg(figure)


def _draw_shares(axes: Axes, values: dict[str, np.ndarray], edges: np.ndarray, of: str) -> None:
    for number, (name, found) in enumerate(values.items()):
        counts, _ = np.histogram(found, edges)
        colour = COLOURS[number % len(COLOURS)]
        shares = 100 * counts / len(found)
        axes.stairs(shares, edges, color=colour, linewidth=2, fill=False, label=printable(name))
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"share {of}", color=GRAY)
    clear_frame(axes)


def _mark(axes: Axes, places: dict[int, str]) -> None:
    for x, label in places.items():
        axes.axvline(x, color=GRAY, linestyle=":", linewidth=1)
        if label:
            top = axes.get_ylim()[1]
            axes.annotate(
                f"{x} {label}", (x, top), (3, -12), textcoords="offset points", color=GRAY
            )
