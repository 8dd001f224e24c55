"""Checks all of a data set: annotations, image files, and its parts beside each other."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from detectron2.config import CfgNode

from ..config import MAX_PIXELS
from ..data.coco_check import MAX_CLASS_NAME, check_coco
from ..data.findings import Findings
from ..data.image_check import ImageEntry, check_image_files
from ..data.instance_checks import is_text
from ..data.mask_bounds import shorten
from ..json_files import without_garbage_collection
from ..model_zoo import get_config
from .categories import check_categories
from .equal_images import EqualCounts, Seen, find_equal
from .sources import Split
from .statistics import SplitStatistics, TrainingScale, measure

DEFAULT_CONFIG = "COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q.yaml"
_FOR_TRAINING = "train"

Advance = Callable[[int], object]  # takes the number of images that are done since the last call


class Progress(Protocol):
    """Shows what is done."""

    def __call__(self, what: str, total: int) -> Advance:
        """Begin a step of so many images; 0 for one that is not counted."""
        ...


def no_progress(what: str, total: int) -> Advance:
    """Shows nothing."""
    return lambda count: None


@dataclass
class CheckResult:
    """What is wrong with a data set, and its figures.

    Attributes:
        splits: its parts.
        statistics: of the parts whose annotations can be read.
        equal: images that equal others, by the numbers of their parts in `splits`.
        scale: what the statistics are held against.
        fast: whether of images only headers were read.
    """

    splits: list[Split]
    findings: Findings
    scale: TrainingScale
    fast: bool
    statistics: list[SplitStatistics] = field(default_factory=list)
    equal: EqualCounts = field(default_factory=lambda: EqualCounts({}, {}, {}))

    @property
    def num_errors(self) -> int:
        return self.findings.count("error")


def check_data(
    splits: Sequence[Split],
    *,
    fast: bool = False,
    workers: int | None = None,
    cfg: CfgNode | None = None,
    findings: Findings | None = None,
    progress: Progress = no_progress,
) -> CheckResult:
    """Check annotations and images of all parts of a data set.

    Keeps figures, not annotations: one part's file is in memory at a time.

    Args:
        fast: read the images' headers, not all of their pixels.
        workers: processes that read images; None for one for each core, at most 1 for this one.
        cfg: of a model, for INPUT.MAX_PIXELS, sizes, queries and detections; None for that of
            the published models.
        findings: get the problems; those in it already stay.
    """
    known = cfg or get_config(DEFAULT_CONFIG)
    result = CheckResult(list(splits), findings or Findings(), TrainingScale.from_cfg(known), fast)
    num_workers = workers if workers is not None else os.cpu_count() or 1
    max_pixels = known.INPUT.get("MAX_PIXELS", MAX_PIXELS)
    seen: list[Seen] = []
    for number, split in enumerate(result.splits):
        progress(f"{split.name}: annotations", 0)
        with without_garbage_collection():
            read = _read_annotations(split, result, max_pixels)
        if read is None:
            continue
        entries, statistics = read
        result.statistics.append(statistics)
        facts = check_image_files(
            entries,
            pixels=not fast,
            workers=0 if num_workers < 2 else num_workers,
            findings=result.findings,
            source=split.json_file,
            progress=progress(f"{split.name}: images", len(entries)),
            max_pixels=max_pixels,
        )
        counts = statistics.objects_per_image.tolist()
        seen += (
            Seen(number, split.json_file, entry, fact.digest, count)
            for entry, fact, count in zip(entries, facts, counts, strict=True)
        )
    advance = progress("equal images", 0)
    result.equal = find_equal(seen, result.findings, is_exact=not fast, progress=advance)
    check_categories(_training_first(result.statistics), result.findings)
    return result


def _read_annotations(
    split: Split, result: CheckResult, max_pixels: int
) -> tuple[list[ImageEntry], SplitStatistics] | None:
    """A part's images and figures; None if its file cannot be used at all."""
    content = check_coco(
        split.json_file,
        split.image_root,
        findings=result.findings,
        trained=len(result.splits) == 1 or split.name == _FOR_TRAINING,
        evaluated=True,  # whatever it is used for: what has all can be evaluated on later
        max_pixels=max_pixels,
        num_queries=result.scale.num_queries,
        detections=result.scale.detections,
    )
    if content is None:
        return None
    entries = content.image_entries(split.image_root)
    return entries, measure(
        split, content.images, content.annotations, _classes(content), result.scale
    )


def _classes(content: Any) -> dict[Any, str]:
    """The names by category ids, as Detectron2 numbers them; those that are no names, as such."""
    names = {id_: content.categories[id_]["name"] for id_ in sorted(content.categories)}
    return {id_: x if is_text(x, MAX_CLASS_NAME) else shorten(x) for id_, x in names.items()}


def _training_first(parts: Sequence[SplitStatistics]) -> list[SplitStatistics]:
    return sorted(parts, key=lambda part: part.name != _FOR_TRAINING)
