"""The records of runs as Markdown tables."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

Record = dict[str, Any]
METRICS = ("box_ap", "mask_ap")
RANDOM = "random weights"
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
    """A row per label: AP with NMS at 0.7 and without, and a step's seconds by the baseline's.

    In brackets is how far the mean is from the baseline's, over the seeds that both have.

    Args:
        records: with `nms` and, unless the model had NMS itself, `raw`: each METRICS -> AP.
    """
    rows: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        rows[record["label"]][record["seed"]] = record
    lines = [
        "| change | steps | seeds | mask AP | box AP | mask AP without NMS | box AP | step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = rows[baseline]
    for label, by_seed in rows.items():
        common = sorted(by_seed.keys() & base.keys())
        cells = [label, f"{next(iter(by_seed.values()))['steps']:,}", str(len(by_seed))]
        for metric in reversed(METRICS):
            text = f"{mean(run['nms'][metric] for run in by_seed.values()):.1f}"
            gain = mean(by_seed[seed]["nms"][metric] - base[seed]["nms"][metric] for seed in common)
            cells.append(text if label == baseline else f"{text} ({gain:+.1f})")
        raw = [run["raw"] for run in by_seed.values() if run["raw"]]
        cells += [f"{mean(x[name] for x in raw):.1f}" if raw else "" for name in reversed(METRICS)]
        seconds = (mean(run["seconds_per_step"] for run in x.values()) for x in (by_seed, base))
        cells.append("{:.2f}".format(next(seconds) / next(seconds)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def goal_table(records: Iterable[Record]) -> str:
    """A row per data set, start and model: AP over the seeds of its best rate.

    The last column is the mean mask AP of QueryInst minus that of the row.
    """
    lines = [
        "| data set | starts from | model | steps | rate | seeds | box AP | mask AP | QueryInst's "
        "lead in masks |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (data, start), models in by_data_and_start(records).items():
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


def by_data_and_start(
    records: Iterable[Record],
) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """The records of each model, by data set and `start_of`."""
    groups: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record["data"], start_of(record)][record["model"]].append(record)
    return groups


def start_of(record: Record) -> str:
    """`random weights`, or the data set whose weights the run starts from."""
    return record["weights"].split("_")[1] if record["weights"] else RANDOM


def best_runs(runs: list[Record]) -> list[Record]:
    """Those of the rate that is best by mask AP with the lowest seed, by seed."""
    lowest = min(run["seed"] for run in runs)
    candidates = [run for run in runs if run["seed"] == lowest]
    best = max(candidates, key=lambda run: final(run, "mask_ap"))
    return sorted((run for run in runs if run["lr"] == best["lr"]), key=lambda run: run["seed"])
