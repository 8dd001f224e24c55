"""What a report says, for a terminal."""

import os
from collections.abc import Mapping

from .make_report import Report


def report_text(report: Report) -> str:
    """The figures, and where the page and the pictures are."""
    lines = [f"{report.dataset_name}:"]
    tasks = {"mask": report.results.get("segm", {}), "box": report.results.get("bbox", {})}
    for name, metrics in tasks.items():
        if metrics:
            figures = "  ".join(
                f"{key} {_number(metrics.get(key))}" for key in ("AP", "AP50", "AP75")
            )
            lines.append(f"  {name + ':':6}{figures}{_classes(metrics)}")
    counts = report.counts
    score = f"{counts.min_score:g}"
    lines += [
        f"  found: {counts.num_matched} of {counts.num_objects} objects at IoU 0.5 and score >="
        f" {score}; {counts.num_extra} more predicted",
        f"  (so demo.py --confidence-threshold {score}, or queryinst predict --score {score}, suits"
        " this model)",
        f"pictures: {len(report.picture_paths)} in {os.path.dirname(report.picture_paths[0])}",
        f"report: {report.page_path}",
    ]
    return "\n".join(lines)


def _classes(metrics: Mapping[str, float | None]) -> str:
    classes = [f"{k[3:]} {_number(v)}" for k, v in metrics.items() if k.startswith("AP-")]
    return f"  ({', '.join(classes)})" if classes else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
