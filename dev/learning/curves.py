"""Mask AP over seconds of training steps, as one SVG for all data sets."""

from pathlib import Path
from statistics import mean

from matplotlib import rc_context
from matplotlib.figure import Figure

from .tables import MODEL_NAMES, RANDOM, Record, best_runs, by_data_and_start

COLORS = {"queryinst": "#1f77b4", "maskrcnn": "#d62728", "mmdet": "#7f7f7f"}


def draw_curves(records: list[Record], seconds: dict[str, dict[str, float]], path: Path) -> None:
    """Write a panel for each data set and start: a line per model, the range over seeds around it.

    Args:
        seconds: of a step, by model and data set, on a quiet machine.
    """
    panels = by_data_and_start(records)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, ((data, start), models) in zip(axes, panels.items()):
        for model, runs in models.items():
            best = best_runs(runs)
            steps = [point["step"] for point in best[0]["curve"]]
            x = [step * seconds[model][data] for step in steps]
            values = list(zip(*([point["mask_ap"] for point in run["curve"]] for run in best)))
            ax.plot(x, list(map(mean, values)), color=COLORS[model], label=MODEL_NAMES[model])
            ax.fill_between(
                x, list(map(min, values)), list(map(max, values)), color=COLORS[model], alpha=0.2
            )
        ax.set_title(f"{data}, from {start if start == RANDOM else 'other weights'}")
        ax.set_xlabel("seconds of steps")
        ax.set_ylabel("mask AP")
        ax.grid(alpha=0.3)
    for ax in list(axes)[len(panels) :]:
        ax.set_visible(False)
    figure.axes[0].legend()
    # Text stays text, and the same figures give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})
