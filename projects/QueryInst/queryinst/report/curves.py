"""Curves of losses and AP over iterations, as SVG."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_STAGE = re.compile(r"_stage\d+$")
_LOSS_NAMES = {
    "total_loss": "total",
    "loss_cls": "class",
    "loss_box_l1": "box L1",
    "loss_box_giou": "box GIoU",
    "loss_mask": "mask",
}
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 112, 16, 40  # margins; the right one holds the curves' names
_COLOURS = ("#1f6feb", "#d1660f", "#1a8754", "#8a3ffc", "#57606a", "#bf3989")


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


def line_chart(
    series: Sequence[Series], title: str, *, y_max: float | None = None, log: bool = False
) -> str:
    """An SVG of all curves, their names at their ends; a note where there is none.

    Args:
        y_max: the end of the y axis; None for what the values need.
        log: logarithmic y axis, for values above 0; others are left out.
    """
    if log:
        series = [Series(s.name, [p for p in s.points if p[1] > 0]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return f"<p>{escape(title)}: the run recorded none.</p>"
    x_max = max(x for s in series for x, _ in s.points)
    x_ticks = [x for x in ticks(x_max) if x <= x_max]
    values = [y for s in series for _, y in s.points]
    y_ticks = log_ticks(min(values), max(values)) if log else ticks(y_max or max(values))
    frame = _Frame(x_max, y_ticks[0], y_ticks[-1], log)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(_y_tick(frame, value) for value in y_ticks),
        *(_x_tick(frame, value) for value in x_ticks),
        f'<text class="axis" x="{frame.x(x_max / 2):.1f}" y="{_HEIGHT - 4}"'
        ' text-anchor="middle">iteration</text>',
        *_curves(frame, series),
        "</svg>",
    ]
    return "\n".join(parts)


def ticks(highest: float) -> list[float]:
    """Round values from 0 to at least `highest`, four to eight of them."""
    if highest <= 0:
        return [0, 1]
    step = 10 ** math.floor(math.log10(highest / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if highest / (step * factor) <= 6)
    return [round(index * step, 10) for index in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2, 5, 10, ... from at most `lowest` to at least `highest`; tens alone where it is far."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    factors = (1, 2, 5) if last - first <= 4 else (1,)
    all_ticks = [f * 10.0**power for power in range(first, last + 1) for f in factors]
    begin = max(index for index, value in enumerate(all_ticks) if value <= lowest)
    end = min(index for index, value in enumerate(all_ticks) if value >= highest)
    return all_ticks[begin : max(end, begin + 1) + 1]


class _Frame(NamedTuple):
    """From values to the SVG's pixels."""

    x_max: float
    y_min: float
    y_max: float
    log: bool

    def x(self, value: float) -> float:
        return _LEFT + value / self.x_max * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_min, self.y_max
        if self.log:
            value, low, high = (math.log(v) for v in (value, low, high))
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _y_tick(frame: _Frame, value: float) -> str:
    y = frame.y(value)
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _x_tick(frame: _Frame, value: float) -> str:
    y = _HEIGHT - _BOTTOM + 16
    label = f"{value:,.0f}" if value == int(value) else f"{value:g}"
    return (
        f'<text class="axis" x="{frame.x(value):.1f}" y="{y}" text-anchor="middle">{label}</text>'
    )


def _curves(frame: _Frame, series: Sequence[Series]) -> list[str]:
    parts = []
    label_ys = _spread([frame.y(s.points[-1][1]) for s in series])
    for index, (name, points) in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        if len(points) <= 40:  # few enough to show each
            parts += [
                f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" fill="{colour}">'
                f"<title>{escape(name)} {y:.4g} at iteration {x:,}</title></circle>"
                for x, y in points
            ]
        parts.append(
            f'<text class="name" x="{frame.x(points[-1][0]) + 8:.1f}" y="{label_ys[index] + 4:.1f}"'
            f' fill="{colour}">{escape(name)} {points[-1][1]:.3g}</text>'
        )
    return parts


def _spread(ys: list[float], least: float = 15.0) -> list[float]:
    """The heights, moved apart so that texts there do not overlap, within the frame."""
    order = sorted(range(len(ys)), key=lambda index: ys[index])
    spread = list(ys)
    for above, below in zip(order, order[1:]):
        spread[below] = max(spread[below], spread[above] + least)
    limit = float(_HEIGHT - _BOTTOM)
    for index in reversed(order):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - least
    return spread
