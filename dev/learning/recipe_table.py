"""The records of `dev.learning.recipe` as a Markdown table."""

from statistics import median
from typing import Any

from .tables import mean_and_range

_NAMES = {
    "recipe": "QueryInst, recipe from the demo's weights",
    "raw": "the same without the average",
    "random": "QueryInst, recipe from random weights",
    "random raw": "the same without the average",
    "maskrcnn trained": "Mask R-CNN from weights of shapes",
    "maskrcnn random": "Mask R-CNN from random weights",
}


def recipe_table(records: list[dict[str, Any]]) -> str:
    """A row for each set and variant: means over the seeds, with the least and the most."""
    lines = [
        "| data set | model | steps | seconds of steps | seeds | box AP | mask AP |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for data in dict.fromkeys(record["data"] for record in records):
        for variant, name in _NAMES.items():
            runs = _runs_of([x for x in records if x["data"] == data], variant)
            if not runs:
                continue
            key = "raw" if variant.endswith("raw") else "final"
            seconds = median(run["seconds"] for run in runs)
            steps = median(run["steps"] for run in runs)
            cells = [data, name, f"{steps:,.0f}", f"{seconds:.0f}", str(len(runs))]
            cells += [
                mean_and_range([run[key][metric] for run in runs])
                for metric in ("box_ap", "mask_ap")
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _runs_of(records: list[dict[str, Any]], variant: str) -> list[dict[str, Any]]:
    """The records of a row."""
    model = "maskrcnn" if variant.startswith("maskrcnn") else "recipe"
    start = "random" if "random" in variant else "trained"
    return [x for x in records if (x["model"], x["start"]) == (model, start)]
