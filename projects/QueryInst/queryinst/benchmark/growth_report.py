"""Growth as tables and plots."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .growth import Growth
from .main import Result
from .measuring import QUIET
from .report import gigabytes, largest_parts, markdown_table

_COLOURS = {
    "backbone": "#1f6feb",
    "FPN": "#79b8ff",
    "RoIAlign": "#d1660f",
    "box heads": "#1a8754",
    "mask head": "#8a3ffc",
    "paste": "#bf3989",
    "matching": "#e3b341",
    "losses": "#bf3989",
    "backward": "#57606a",
    "optimizer": "#8b572a",
    "other": "#d0d7de",
}


def write_growth(growths: Sequence[Growth], folder: Path, stem: str) -> list[Path]:
    """STEM.md and a plot for each axis, STEM-AXIS-TASK.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    lines = list(_head(growths[0].results[0], worst_load(growths)))
    for growth in growths:
        picture = folder / f"{stem}-{growth.axis.slug}.svg"
        plot(growth, picture)
        paths.append(picture)
        lines += ["", f"## {growth.axis.name}, {growth.axis.task}", "", *describe(growth)]
        lines += ["", f"![{growth.axis.name}, {growth.axis.task}]({picture.name})"]
    page = folder / f"{stem}.md"
    page.write_text("\n".join(lines) + "\n")
    return [page, *paths]


def _head(result: Result, others: float | None):
    yield f"# How cost grows, {datetime.date.today()}"
    yield ""
    yield "Written by `tools/cost_growth.py`. One thing varies, each value in a process of its own;"
    yield "the weights are initial ones with query boxes of all sizes. Each time is that of"
    yield "two steps at inference, of one in training, after one that warms up."
    yield f"{', '.join(f'{k} {v}' for k, v in result.hardware.items())};"
    yield f"{', '.join(f'{k} {v}' for k, v in result.versions.items())}."
    if others is not None:
        word = "quiet" if others <= QUIET else "not quiet"
        yield f"Other processes used at most {100 * others:.0f} % of the cores ({word})."


def worst_load(growths: Sequence[Growth]) -> float | None:
    """The largest share of the cores that others used in any measurement."""
    results = [result for growth in growths for result in growth.results]
    shares = [result.measurement.load.others_share for result in results]
    return max((share for share in shares if share is not None), default=None)


def describe(growth: Growth) -> list[str]:
    """What is fixed, the table, and which part grew faster than the work."""
    lines = [_fixed(growth), "", *growth_table(growth), ""]
    faster = growth.faster_than_work()
    if not faster:
        return [*lines, "No part of weight grew faster than the work."]
    found = ", ".join(f"{part} {factor:.2f} times" for part, factor in faster.items())
    return [*lines, f"Grew more than the work did: {found}."]


def _fixed(growth: Growth) -> str:
    """The rest of the circumstances."""
    axis, result = growth.axis, growth.results[0]
    facts = {
        "queries": f"{result.model['queries']} queries",
        "classes": f"{result.model['classes']} classes",
        "batch size": f"{result.case.batch} images a step",
        "image size": "x".join(map(str, result.case.size or ())),
    }
    if axis.task == "training":
        facts["instances"] = f"{result.case.instances} instances an image"
    return f"With {', '.join(fact for name, fact in facts.items() if name != axis.name)}."


def growth_table(growth: Growth) -> list[str]:
    """A line for each value; at inference with the queries that need a mask, which masks cost."""
    is_inference = growth.axis.task == "inference"
    rows = []
    for value, result in zip(growth.axis.values, growth.results):
        peak = result.measurement.peak_bytes
        rows.append(
            [
                str(value),
                f"{result.measurement.median:.3f} s",
                "unknown" if peak is None else gigabytes(peak),
                *([f"{result.output['unique_queries']:g}"] if is_inference else []),
                largest_parts(result.parts),
            ]
        )
    header = [growth.axis.name, "time", "peak memory"]
    header += ["queries with masks"] if is_inference else []
    return markdown_table([*header, "what dominates"], rows)


def plot(growth: Growth, path: Path) -> None:
    """Left the time, its parts stacked; right the peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = growth.axis.values
    # Text as text, and no date or random names: small files that change with the figures alone.
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "queryinst", "font.size": 9}
    with matplotlib.rc_context(style):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
        parts = list(growth.results[0].parts)
        rows = [[result.parts[part] for result in growth.results] for part in parts]
        left.stackplot(values, rows, labels=parts, colors=[_COLOURS[part] for part in parts])
        medians = [result.measurement.median for result in growth.results]
        left.plot(values, medians, "k.-", linewidth=1, label="whole")
        left.set(xlabel=growth.axis.name, ylabel="seconds", xlim=(0, values[-1]))
        left.set_ylim(bottom=0)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8)
        peaks = [result.measurement.peak_bytes or 0 for result in growth.results]
        right.plot(values, [peak / 1e9 for peak in peaks], "k.-", linewidth=1)
        right.set(xlabel=growth.axis.name, ylabel="peak memory [GB]", xlim=(0, values[-1]))
        right.set_ylim(bottom=0)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
