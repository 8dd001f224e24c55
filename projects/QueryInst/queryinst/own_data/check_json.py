"""What a check found, as JSON whose names stay."""

import math
from typing import Any

from ..data.findings import Finding
from ..data.mask_bounds import shorten
from .check import CheckResult
from .statistics import Percentiles, SplitStatistics

_NUM_SIZES = 20  # sizes of images that are listed, the most frequent ones


def as_json(result: CheckResult) -> dict[str, Any]:
    """{"problems": [...], "statistics": {...}}, of plain types."""
    return {
        "problems": [
            {
                "kind": group.kind.name,
                "severity": group.kind.severity,
                "count": group.count,
                "title": group.kind.title,
                "examples": [_example(finding) for finding in group.examples],
                "advice": group.kind.advice,
            }
            for group in result.findings.groups()
        ],
        "statistics": _statistics(result),
    }


def _example(finding: Finding) -> dict[str, Any]:
    return {
        "file": finding.file_name,
        "annotation_file": finding.source,
        "image_id": _id(finding.image_id),
        "annotation_id": _id(finding.annotation_id),
        "value": finding.message,
    }


def _id(value: Any) -> int | float | str | None:
    """As it is where JSON can hold it."""
    if value is None or isinstance(value, (str, int)):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else shorten(value)


def _statistics(result: CheckResult) -> dict[str, Any]:
    names = [split.name for split in result.splits]
    scale = result.scale
    within = {names[number]: count for number, count in result.equal.within.items()}
    return {
        "splits": [_split(part) for part in result.statistics],
        "equal_images": {
            "compared": "ends of files" if result.fast else "pixels",
            "within": within,
            "across": [
                {"split": names[later], "other": names[earlier], "count": count}
                for (later, earlier), count in result.equal.across.items()
            ],
        },
        "training": {
            "short_side": scale.short_side,
            "max_size": scale.max_size,
            "num_queries": scale.num_queries,
            "detections_per_image": scale.detections,
        },
    }


def _split(part: SplitStatistics) -> dict[str, Any]:
    small, medium, large = part.size_counts
    return {
        "name": part.name,
        "annotation_file": part.json_file,
        "image_folder": part.image_root,
        "num_images": part.num_images,
        "num_images_without_objects": part.num_images_without_objects,
        "num_objects": part.num_objects,
        "num_crowds": part.num_crowds,
        "objects_per_image": _percentiles(Percentiles.of(part.objects_per_image)),
        "num_images_over_queries": part.num_images_over(part.scale.num_queries),
        "num_images_over_detections": part.num_images_over(part.scale.detections),
        "object_sides": _percentiles(Percentiles.of(part.object_sizes)),
        "object_counts_by_size": {"small": small, "medium": medium, "large": large},
        "image_sizes": [
            {"width": width, "height": height, "count": count}
            for width, height, count in part.common_image_sizes(_NUM_SIZES)
        ],
        "classes": [
            {
                "name": class_.name,
                "num_objects": class_.num_objects,
                "num_crowds": class_.num_crowds,
                "num_images": class_.num_images,
                "median_side": round(class_.median_size, 2),
            }
            for class_ in part.classes()
        ],
    }


def _percentiles(values: Percentiles) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values._asdict().items()}
