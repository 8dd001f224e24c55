"""Curves of losses and AP over iterations, as SVG."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

_STAGE = re.compile(r"_stage\d+$")
_LOSS_NAMES = {
    "total_loss": "total",
    "loss_cls": "class",
    "loss_box_l1": "box L1",
    "loss_box_giou": "box GIoU",
    "loss_mask": "mask",
}
_WIDTH, _HEIGHT = 640, 300  # points, as all lengths of the figure
_FRAME = (52 / _WIDTH, 40 / _HEIGHT, 476 / _WIDTH, 244 / _HEIGHT)  # left, bottom, width, height
_LINE_HEIGHT = 15
_COLOURS = ("#1f6feb", "#d1660f", "#1a8754", "#8a3ffc", "#57606a", "#bf3989")
_STYLE = {
    "svg.fonttype": "none",  # text, in the page's font
    "svg.hashsalt": "queryinst",  # the same identifiers each time
    "font.size": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "xtick.major.size": 0,
    "xtick.major.pad": 8,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    **{key: "#57606a" for key in ("axes.labelcolor", "xtick.color", "ytick.color")},
}


class Series(NamedTuple):
    """One curve."""

    name: str
    points: list[tuple[int, float]]  # (iteration, value)


def loss_series(metrics: Sequence[Mapping[str, float]], max_iter: int) -> list[Series]:
    """The losses, each summed over the stages, and the total, from lines of metrics.json."""
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in metrics:
        sums: dict[str, float] = defaultdict(float)
        for key, value in line.items():
            if "loss" in key and "/" not in key:
                sums[_STAGE.sub("", key)] += value
        for name, value in sums.items():
            if math.isfinite(value):
                points[name].append((_iterations_done(line, max_iter), value))
    order = [*_LOSS_NAMES, *sorted(set(points) - set(_LOSS_NAMES))]
    return [Series(_LOSS_NAMES.get(n, n), points[n]) for n in order if points.get(n)]


def ap_series(
    metrics: Sequence[Mapping[str, float]], dataset_name: str, max_iter: int
) -> list[Series]:
    """Mask and box AP of a data set at each evaluation."""
    series = []
    for task, name in (("segm", "mask AP"), ("bbox", "box AP")):
        points = []
        for line in metrics:
            value = line.get(f"{task}/AP", line.get(f"{dataset_name}/{task}/AP"))
            if value is not None and math.isfinite(value):
                points.append((_iterations_done(line, max_iter), value))
        if points:
            series.append(Series(name, points))
    return series


def _iterations_done(line: Mapping[str, float], max_iter: int) -> int:
    """Detectron2 counts from 0, and writes what follows the last one under `max_iter`."""
    return min(int(line["iteration"]) + 1, max_iter)


def line_chart(series: Sequence[Series], *, y_max: float | None = None, log: bool = False) -> str:
    """An SVG of all curves, their names at their ends; empty where there is none.

    Args:
        y_max: the end of the y axis; None for what the values need.
        log: logarithmic y axis, for values above 0; others are left out.
    """
    if log:
        series = [Series(s.name, [p for p in s.points if p[1] > 0]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return ""
    values = [y for s in series for _, y in s.points]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
        axes = figure.add_axes(_FRAME)
        _set_axes(axes, max(x for s in series for x, _ in s.points), values, y_max, log)
        _draw_curves(axes, series)
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # what precedes it belongs to a file of its own
    # Browsers show a title as what the pointer is on.
    return re.sub(r'<g id="([^"]* at iteration [^"]*)">', r"<g><title>\1</title>", svg)


def _set_axes(axes: Axes, x_max: int, values: list[float], y_max: float | None, log: bool) -> None:
    """Round ticks; those of y enclose the values."""
    low, high = (min(values), max(values)) if log else (0, y_max or max(values))
    high = max(high, low * 1.01) or 1
    locator: LogLocator | MaxNLocator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    if log:
        axes.set_yscale("log")
        is_wide = math.log10(high / low) > 4
        locator = LogLocator(subs=(1,) if is_wide else (1, 2, 5), numticks=1000)
    # LogLocator ends below a `high` within a decade, and counts evenly where there is but one.
    ticks = locator.tick_values(low, 10 * high if log else high)
    first = max(index for index, tick in enumerate(ticks) if tick <= low)
    last = min(index for index, tick in enumerate(ticks) if tick >= high)
    ticks = ticks[first : last + 1]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(ticks[0], ticks[-1])
    axes.grid(axis="y", color="#e4e8ec", clip_on=False)
    axes.set_axisbelow(True)
    axes.set_xlim(0, x_max)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("iteration")


def _draw_curves(axes: Axes, series: Sequence[Series]) -> None:
    ends = [s.points[-1] for s in series]
    heights = [axes.transData.transform(end)[1] for end in ends]
    shifts = [moved - height for moved, height in zip(_spread(heights), heights)]
    for index, (name, points) in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(*zip(*points), color=colour, linewidth=2, clip_on=False, gid=f"curve-{index}")
        for x, y in points if len(points) <= 40 else ():  # few enough to mark each
            about = f"{name} {y:.4g} at iteration {x:,}"
            axes.plot(x, y, "o", color=colour, markersize=6, clip_on=False, gid=about)
        axes.annotate(
            f"{name} {ends[index][1]:.3g}",
            ends[index],
            (8, shifts[index]),
            textcoords="offset points",
            color=colour,
            weight="bold",
            parse_math=False,
            verticalalignment="center",
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """The heights, moved up so that texts there do not overlap."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    spread = list(heights)
    for lower, upper in pairwise(order):
        spread[upper] = max(spread[upper], spread[lower] + _LINE_HEIGHT)
    return spread
