"""The records of runs as Markdown tables, and AP over seconds as curves."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

Record = dict[str, Any]
METRICS = ("box_ap", "mask_ap")
MODEL_NAMES = {
    "queryinst": "QueryInst",
    "maskrcnn": "Mask R-CNN",
    "mmdet": "MMDetection's QueryInst",
}


def final(record: Record, metric: str) -> float:
    return record["curve"][-1][metric]


def mean_and_range(values: list[float]) -> str:
    """`mean (least to most)` with one decimal; a single value alone, marked as one seed."""
    if len(values) == 1:
        return f"{values[0]:.1f} (one seed)"
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def ablation_table(records: Iterable[Record], baseline: str) -> str:
    """A row per label: mask and box AP over the seeds, and the mean's distance to the baseline's.

    The distance is over the seeds that both have.
    """
    rows: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        rows[record["label"]][record["seed"]] = record
    lines = [
        "| change | seeds | mask AP | to the baseline | box AP | to the baseline | step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = rows[baseline]
    base_seconds = mean(record["seconds_per_step"] for record in base.values())
    for label, by_seed in rows.items():
        common = sorted(by_seed.keys() & base.keys())
        cells = [label, str(len(by_seed))]
        for metric in reversed(METRICS):
            values = [final(record, metric) for record in by_seed.values()]
            difference = mean(
                final(by_seed[seed], metric) - final(base[seed], metric) for seed in common
            )
            cells += [mean_and_range(values), f"{difference:+.1f}" if label != baseline else ""]
        seconds = mean(record["seconds_per_step"] for record in by_seed.values())
        cells.append(f"{seconds / base_seconds:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def goal_table(records: Iterable[Record]) -> str:
    """A row per data set, start and model: AP over the seeds of its best rate.

    The last column is the mean mask AP of QueryInst minus that of the row.
    """
    cells: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        cells[record["data"], start_of(record)][record["model"]].append(record)
    lines = [
        "| data set | starts from | model | steps | rate | seeds | box AP | mask AP | QueryInst's "
        "lead in masks |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (data, start), models in cells.items():
        means = {}
        for model in filter(models.__contains__, MODEL_NAMES):
            best = best_runs(models[model])
            row = [data, start, MODEL_NAMES[model], f"{best[0]['steps']:,}", f"{best[0]['lr']:g}"]
            row.append(str(len(best)))
            row += [mean_and_range([final(run, metric) for run in best]) for metric in METRICS]
            means[model] = mean(final(run, "mask_ap") for run in best)
            compared = model != "queryinst" and "queryinst" in means
            row.append(f"{means['queryinst'] - means[model]:+.1f}" if compared else "")
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def start_of(record: Record) -> str:
    """`random weights`, or the data set whose weights the run starts from."""
    return record["weights"].split("_")[1] if record["weights"] else "random weights"


def best_runs(runs: list[Record]) -> list[Record]:
    """Those of the rate that is best by mask AP with the lowest seed, by seed."""
    lowest = min(run["seed"] for run in runs)
    candidates = [run for run in runs if run["seed"] == lowest]
    best = max(candidates, key=lambda run: final(run, "mask_ap"))
    return sorted((run for run in runs if run["lr"] == best["lr"]), key=lambda run: run["seed"])
