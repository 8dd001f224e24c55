"""The check that ends every export: the file and eager on the same images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from queryinst_runtime.description import Description
from queryinst_runtime.resizing import resize
from queryinst_runtime.results import Result
from queryinst_runtime.session import Session

from ..data.shapes_drawing import draw_scene


class Tolerance(NamedTuple):
    """How far a file may be from eager, in each row of the table.

    Boxes, scores and masks: what a share of the detections stays within, so that a RoI whose size
    lies on the border of two levels, which rounding decides, does not fail a file.
    """

    boxes: float  # of the image's longer side
    scores: float
    mask_iou: float  # at least
    same_queries: float  # at least; of the pairs of query and class that either detects
    share: float = 0.99  # of the detections


TOLERANCES = {
    "fp32": Tolerance(boxes=0.001, scores=0.001, mask_iou=0.99, same_queries=0.99),
    "fp16": Tolerance(boxes=0.02, scores=0.02, mask_iou=0.9, same_queries=0.9),
    "int8": Tolerance(boxes=0.08, scores=0.1, mask_iou=0.5, same_queries=0.9, share=0.9),
}


class Case(NamedTuple):
    """A batch of images to run both on, and the threshold of the scores."""

    name: str
    images: list[np.ndarray]  # each (H, W, 3) uint8, RGB
    score: float = 0.0


@dataclass
class Row:
    """What one case gave."""

    name: str
    num: int  # detections of eager
    boxes: float  # pixels
    box_parts: float  # the same, each as a part of its image's longer side
    scores: float
    mask_iou: float
    same_queries: float
    eager_ms: float
    file_ms: float

    def problems(self, tolerance: Tolerance) -> list[str]:
        """What is outside of the tolerance, in words; NaN is."""
        problems = []
        if not self.box_parts <= tolerance.boxes:
            problems.append(
                f"boxes {self.boxes:.4g} px, {self.box_parts:.3g} of the image's side (tolerance"
                f" {tolerance.boxes:.3g})"
            )
        if not self.scores <= tolerance.scores:
            problems.append(f"scores {self.scores:.4g} (tolerance {tolerance.scores:.3g})")
        for name in ("mask_iou", "same_queries"):
            value, least = getattr(self, name), getattr(tolerance, name)
            if not value >= least:
                problems.append(f"{name} {value:.4g} (tolerance {least:.3g})")
        return problems


def make_cases(about: Description) -> list[Case]:
    """Pictures of drawn shapes in several sizes and batches, a blank one, and none detected."""
    short = about.min_size_test or 480
    long = short * 4 // 3
    pictures = [
        resize(draw_scene((20, index)).image, size, "PIL")
        for index, size in enumerate([(short, long), (long, short), (short, short)])
    ]
    blank = np.full((short, long, 3), 127, np.uint8)
    return [
        *(Case(_size_of(picture), [picture]) for picture in pictures[:2]),
        Case("batch of 3 sizes", pictures),
        Case("blank", [blank]),
        Case("none above 1", [pictures[0]], score=1.0),
    ]


def cases_of(images: Sequence[tuple[str, np.ndarray]]) -> list[Case]:
    """The user's images one by one, all of the first four in one batch, and a blank one."""
    first = [image for _, image in images[:4]]
    batch = [Case(f"batch of {len(first)}", first)] if len(first) > 1 else []
    blank = Case("blank", [np.full_like(first[0], 127)])
    return [*(Case(name, [image]) for name, image in images), *batch, blank]


def _size_of(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def prove(
    eager: Session, exported: Session, cases: Sequence[Case], tolerance: Tolerance
) -> list[Row]:
    """Run both on all cases.

    Args:
        eager, exported: with the same description, so that both see the same batches.
    """
    rows = []
    for case in cases:
        expected, eager_ms = _timed(eager, case)
        actual, file_ms = _timed(exported, case)
        parts = [compare(*pair, tolerance.scores) for pair in zip(expected, actual, strict=True)]
        rows.append(_row(case, parts, tolerance.share, eager_ms, file_ms))
    return rows


def _timed(session: Session, case: Case) -> tuple[list[Result], float]:
    session.detect(case.images, case.score)  # once before, for what is set up at the first call
    start = time.perf_counter()
    results = session.detect(case.images, case.score)
    return results, (time.perf_counter() - start) * 1000


class Differences(NamedTuple):
    """Of the detections of one image, each (M,) for those that both have."""

    boxes: np.ndarray
    scores: np.ndarray
    mask_iou: np.ndarray
    num_expected: int
    num_missing: int  # of either side


def compare(expected: Result, actual: Result, score_tolerance: float) -> Differences:
    """Match the detections of one image by query and class, whose order equal scores may change.

    What only one side has is missing, unless the score is so near to the other's last that
    rounding decides who is among its best.
    """
    ours, theirs = (_places(result) for result in (expected, actual))
    both = [pair for pair in ours if pair in theirs]
    rows, other_rows = [ours[pair] for pair in both], [theirs[pair] for pair in both]
    missing = _missing(expected, actual, theirs, score_tolerance)
    missing += _missing(actual, expected, ours, score_tolerance)
    masks = np.ones(len(both))
    if expected.mask_scores is not None and actual.mask_scores is not None:
        masks = _mask_iou(
            expected.mask_scores[rows], actual.mask_scores[other_rows], score_tolerance
        )
    return Differences(
        boxes=np.abs(expected.boxes[rows] - actual.boxes[other_rows]).max(axis=1, initial=0),
        scores=np.abs(expected.scores[rows] - actual.scores[other_rows]),
        mask_iou=masks,
        num_expected=len(expected),
        num_missing=missing,
    )


def _places(result: Result) -> dict[tuple[int, int], int]:
    pairs = zip(result.query_idx.tolist(), result.classes.tolist())
    return {pair: place for place, pair in enumerate(pairs)}


def _missing(result: Result, other: Result, places: dict, score_tolerance: float) -> int:
    least = other.scores.min() + score_tolerance if len(other) else 0.0
    pairs = zip(result.query_idx.tolist(), result.classes.tolist(), result.scores.tolist())
    return sum((query, c) not in places and score > least for query, c, score in pairs)


def _mask_iou(expected: np.ndarray, actual: np.ndarray, tolerance: float) -> np.ndarray:
    """(M,) IoU of (M, S, S) scores at 0.5, of pixels that `expected` decides by `tolerance`."""
    is_decided = np.abs(expected - 0.5) > tolerance
    ours, theirs = (expected > 0.5) & is_decided, (actual > 0.5) & is_decided
    union = (ours | theirs).sum(axis=(1, 2))
    return np.where(union > 0, (ours & theirs).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


def _row(
    case: Case, parts: Sequence[Differences], share: float, eager_ms: float, file_ms: float
) -> Row:
    boxes, scores, mask_iou = (np.concatenate(field) for field in list(zip(*parts))[:3])
    sides = [max(image.shape[:2]) for image in case.images]
    box_parts = np.concatenate([part.boxes / side for part, side in zip(parts, sides)])
    num_missing = sum(part.num_missing for part in parts)
    return Row(
        name=case.name,
        num=sum(part.num_expected for part in parts),
        boxes=_quantile(boxes, share, 0.0),
        box_parts=_quantile(box_parts, share, 0.0),
        scores=_quantile(scores, share, 0.0),
        mask_iou=_quantile(mask_iou, 1 - share, 1.0),
        same_queries=len(boxes) / max(len(boxes) + num_missing, 1) if num_missing else 1.0,
        eager_ms=eager_ms,
        file_ms=file_ms,
    )


def _quantile(values: np.ndarray, share: float, if_empty: float) -> float:
    return float(np.quantile(values, share)) if len(values) else if_empty


def worst_of(rows: Sequence[Row]) -> dict[str, float]:
    """The tolerance that all rows keep, as the file's metadata has it."""
    return {
        "boxes_px": max(row.boxes for row in rows),
        "scores": max(row.scores for row in rows),
        "mask_iou": min(row.mask_iou for row in rows),
        "same_queries": min(row.same_queries for row in rows),
    }


def table_of(rows: Sequence[Row]) -> str:
    """The rows as a table of text."""
    headers = ["images", "detections", "boxes px", "scores", "mask IoU", "same queries"]
    headers += ["eager ms", "file ms"]
    cells = [
        [
            row.name,
            str(row.num),
            f"{row.boxes:.2g}",
            f"{row.scores:.2g}",
            f"{row.mask_iou:.4f}",
            f"{100 * row.same_queries:.1f} %",
            f"{row.eager_ms:.0f}",
            f"{row.file_ms:.0f}",
        ]
        for row in rows
    ]
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
