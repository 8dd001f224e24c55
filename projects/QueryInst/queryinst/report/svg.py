"""How charts look, and how they become SVG within a page."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1f6feb", "#d1660f", "#1a8754", "#8a3ffc", "#57606a", "#bf3989", "#9a6700")
GRAY, GRID = "#57606a", "#e4e8ec"
# Text as text in the page's font; the same identifiers each time; no formulas.
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "svg.fonttype": "none",
    "svg.hashsalt": "queryinst",
    "text.parse_math": False,
}


def new_figure(width: float, height: float) -> Figure:
    """
    Args:
        width, height: in points, as all lengths of the figure.
    """
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def clear_frame(axes: Axes) -> None:
    """Lines of a grid instead of a frame and ticks."""
    axes.minorticks_off()
    axes.grid(axis="y", color=GRID, clip_on=False)
    axes.set_axisbelow(True)
    axes.set_frame_on(False)
    axes.tick_params(length=0, pad=8, colors=GRAY)


def as_svg(figure: Figure) -> str:
    """An <svg> element, transparent; its texts are escaped."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # what precedes it belongs to a file of its own
