"""Curves of losses and AP over iterations, as SVG."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from .svg import COLOURS, GRAY, STYLE, as_svg, clear_frame, new_figure

Curves = Mapping[str, Sequence[tuple[int, float]]]  # name -> (iteration, value) of each point

_DETAIL = re.compile(r"_stage\d+$|(?<=loss_denoising)_.*")
_LOSS_NAMES = {
    "total_loss": "total",
    "val_total_loss": "validation",
    "loss_cls": "class",
    "loss_box_l1": "box L1",
    "loss_box_giou": "box GIoU",
    "loss_mask": "mask",
    "loss_denoising": "denoising",
}
_AP_NAMES = {"segm": "mask AP", "bbox": "box AP"}
_WIDTH, _HEIGHT = 640, 300  # points, as all lengths of the figure
_FRAME = (52 / _WIDTH, 40 / _HEIGHT, 476 / _WIDTH, 244 / _HEIGHT)  # left, bottom, width, height
_LINE_HEIGHT = 15
_STEPS = [1, 2, 2.5, 5, 10]


def loss_curves(metrics: Iterable[Mapping[str, float]], max_iter: int) -> Curves:
    """The losses, each summed over the stages, and the total, from lines of metrics.json.

    Those of denoising are one, and of validation there is the total alone.
    """
    curves = defaultdict(list)
    for line in metrics:
        sums: dict[str, float] = defaultdict(float)
        for key, value in line.items():
            if "loss" in key and "/" not in key and not key.startswith("val_loss"):
                sums[_DETAIL.sub("", key)] += value
        for key, value in sums.items():
            if math.isfinite(value):
                curves[key].append((_iterations_done(line, max_iter), value))
    keys = [*_LOSS_NAMES, *sorted(curves.keys() - _LOSS_NAMES)]
    return {_LOSS_NAMES.get(key, key): curves[key] for key in keys if key in curves}


def ap_curves(metrics: Iterable[Mapping[str, float]], dataset_name: str, max_iter: int) -> Curves:
    """Mask and box AP of a data set at each evaluation."""
    curves = defaultdict(list)
    for line in metrics:
        for task, name in _AP_NAMES.items():
            value = line.get(f"{task}/AP", line.get(f"{dataset_name}/{task}/AP", math.nan))
            if math.isfinite(value):
                curves[name].append((_iterations_done(line, max_iter), value))
    return curves


def _iterations_done(line: Mapping[str, float], max_iter: int) -> int:
    """Detectron2 counts from 0, and writes what follows the last one under `max_iter`."""
    return min(int(line["iteration"]) + 1, max_iter)


def line_chart(curves: Curves, *, y_max: float | None = None, log: bool = False) -> str:
    """An SVG of all curves, their names at their ends; empty where there is none.

    Args:
        y_max: the end of the y axis; None for what the values need.
        log: logarithmic y axis, for values above 0; others are left out.
    """
    kept = {name: [p for p in points if p[1] > 0 or not log] for name, points in curves.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_axes(_FRAME)
        _set_axes(axes, np.concatenate(list(kept.values())), y_max, log)
        _draw_curves(axes, kept)
    svg = as_svg(figure)
    # Browsers show the title of what the pointer is on.
    return re.sub(r'<g id="([^"]* at iteration [^"]*)">', r"<g><title>\1</title>", svg)


def _set_axes(axes: Axes, points: np.ndarray, y_max: float | None, log: bool) -> None:
    """Set round ticks; those of y enclose the `points` (P, 2)."""
    x_max, highest = points.max(axis=0)
    low = points[:, 1].min() if log else 0
    high = max(y_max or highest, low * 1.01) or 1
    if log:
        axes.set_yscale("log")
        # One decade more: the locator ends below `high`, and counts evenly within a decade.
        factors = (1, 2, 5) if high / low < 1e4 else (1,)
        ticks = np.array(LogLocator(subs=factors, numticks=1000).tick_values(low, 10 * high))
    else:
        ticks = np.array(MaxNLocator(6, steps=_STEPS).tick_values(low, high))
    low, high = ticks[ticks <= low].max(), ticks[ticks >= high].min()
    ticks = ticks[(low <= ticks) & (ticks <= high)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(low, high)
    axes.set_xlim(0, x_max)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("iteration", color=GRAY, labelpad=5)
    clear_frame(axes)


def _draw_curves(axes: Axes, curves: Curves) -> None:
    ends = [points[-1] for points in curves.values()]
    heights = axes.transData.transform(ends)[:, 1]
    shifts = _spread(heights) - heights
    for index, (name, points) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(*zip(*points), color=colour, linewidth=2, clip_on=False, gid=f"curve-{index}")
        for x, y in points if len(points) <= 40 else ():  # few enough to mark each
            about = f"{name} {y:.4g} at iteration {x:,}"
            axes.plot(x, y, "o", color=colour, markersize=6, clip_on=False, gid=about)
        axes.annotate(
            f"{name} {points[-1][1]:.3g}",
            points[-1],
            (8, shifts[index]),
            textcoords="offset points",
            color=colour,
            weight="bold",
            verticalalignment="center",
        )


def _spread(heights: np.ndarray) -> np.ndarray:
    """The heights, moved up so that texts there do not overlap."""
    spread = heights.copy()
    for lower, upper in pairwise(np.argsort(heights)):
        spread[upper] = max(spread[upper], spread[lower] + _LINE_HEIGHT)
    return spread
