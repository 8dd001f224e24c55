"""The comparison that ends an export: what it matches, forgives and finds."""

import numpy as np
import pytest

from queryinst.export.proof import (
    TOLERANCES,
    Case,
    cases_of,
    compare,
    make_cases,
    prove,
    table_of,
    worst_of,
)
from queryinst_runtime import Result
from queryinst_runtime.description import Description

FP32 = TOLERANCES["fp32"]


def make_result(pairs, scores, boxes=None, masks=None) -> Result:
    """Of (query, class) pairs, by falling score; each a box of 10 px and a full mask."""
    query_idx, classes = np.array(pairs).reshape(-1, 2).T
    corner = query_idx[:, None] * np.ones((1, 2), np.float32)
    boxes = np.concatenate([corner, corner + 10], 1) if boxes is None else boxes
    masks = np.full((len(pairs), 4, 4), 0.9, np.float32) if masks is None else masks
    scores = np.array(scores, np.float32)
    return Result(
        (100, 100), boxes, scores, classes, query_idx, mask_scores=masks, mask_boxes=boxes
    )


class Fake:
    """A session that gives these results."""

    def __init__(self, *results):
        self.results = list(results)

    def detect(self, images, score):
        assert len(images) == len(self.results)
        return self.results


def row_of(expected: Result, actual: Result):
    case = Case("one", [np.zeros((100, 100, 3), np.uint8)])
    return prove(Fake(expected), Fake(actual), [case], FP32)[0]


def test_compare_matches_by_query_and_class_whatever_the_order_of_ties():
    expected = make_result([(3, 0), (1, 2), (1, 0)], [0.5, 0.5, 0.2])
    actual = make_result([(1, 2), (3, 0), (1, 0)], [0.5, 0.5, 0.2])
    row = row_of(expected, actual)
    assert (row.boxes, row.scores, row.mask_iou, row.same_queries, row.num) == (0, 0, 1, 1, 3)
    assert row.problems(FP32) == []


def test_compare_forgives_who_is_last_where_scores_tie_but_no_other():
    expected = make_result([(0, 0), (1, 0)], [0.9, 0.30001])
    actual = make_result([(0, 0), (2, 0)], [0.9, 0.3])
    assert compare(expected, actual, 0.001).num_missing == 0
    higher = make_result([(3, 0), (0, 0)], [0.95, 0.9])
    assert compare(higher, actual, 0.001).num_missing == 1
    assert compare(actual, higher, 0.001).num_missing == 1
    nothing = make_result([], [])
    assert compare(expected, nothing, 0.001).num_missing == 2
    assert compare(nothing, expected, 0.001).num_missing == 2
    assert compare(nothing, nothing, 0.001).num_missing == 0


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda r: r.boxes.__iadd__(1), "boxes 1 "),
        (lambda r: r.boxes.__imul__(np.nan), "boxes nan "),
        (lambda r: r.scores.__isub__(0.01), "scores 0.01 "),
        (lambda r: r.mask_scores[:, :2].__isub__(0.5), "mask_iou 0.5 "),
        (lambda r: r.classes.__iadd__(1), "same_queries 0 "),
    ],
)
def test_prove_finds_what_differs(change, problem):
    pairs, scores = [(0, 0), (1, 1)], [0.9, 0.8]
    actual = make_result(pairs, scores)
    change(actual)
    problems = row_of(make_result(pairs, scores), actual).problems(FP32)
    assert any(text.startswith(problem) for text in problems), problems


@pytest.mark.parametrize("side, is_outside", [(100, True), (1000, False)])
def test_prove_allows_boxes_a_part_of_the_image(side, is_outside):
    expected, actual = make_result([(0, 0)], [0.9]), make_result([(0, 0)], [0.9])
    actual.boxes[0] += 0.5
    case = Case("one", [np.zeros((side, 50, 3), np.uint8)])
    row = prove(Fake(expected), Fake(actual), [case], FP32)[0]
    assert bool(row.problems(FP32)) == is_outside


@pytest.mark.parametrize("changed, is_outside", [(0, True), (1, False)])
def test_prove_allows_the_boxes_of_a_batch_a_part_of_their_own_image(changed, is_outside):
    expected, actual = ([make_result([(0, 0)], [0.9]) for _ in range(2)] for _ in range(2))
    actual[changed].boxes[0] += 0.5
    case = Case("two", [np.zeros((50, side, 3), np.uint8) for side in (100, 1000)])
    row = prove(Fake(*expected), Fake(*actual), [case], FP32)[0]
    assert row.boxes > 0.4 and bool(row.problems(FP32)) == is_outside


def test_prove_leaves_out_pixels_that_eager_does_not_decide():
    pairs, scores = [(0, 0)], [0.9]
    masks = np.full((1, 4, 4), 0.9, np.float32)
    masks[0, 0] = 0.5001
    other = masks.copy()
    other[0, 0] = 0.4999
    row = row_of(make_result(pairs, scores, masks=masks), make_result(pairs, scores, masks=other))
    assert row.mask_iou == 1 and row.problems(FP32) == []


def test_prove_looks_at_all_images_of_a_batch_and_at_box_detectors():
    pairs, scores = [(0, 0), (1, 1)], [0.9, 0.8]
    good, bad = make_result(pairs, scores), make_result(pairs, scores)
    bad.boxes[0] += 5
    case = Case("two", [np.zeros((8, 8, 3), np.uint8)] * 2)
    row = prove(Fake(good, good), Fake(good, bad), [case], FP32)[0]
    assert row.num == 4 and row.boxes > 1
    for result in (good, bad):
        result.mask_scores = result.mask_boxes = None
    row = row_of(good, good)
    assert row.mask_iou == 1 and worst_of([row])["boxes_px"] == 0
    assert table_of([row]).splitlines()[-1].startswith("| one ")


def test_cases_cover_sizes_batches_blank_and_none(about_of):
    cases = make_cases(about_of(min_size_test=48))
    shapes = [[image.shape[:2] for image in case.images] for case in cases]
    assert shapes == [
        [(48, 64)],
        [(64, 48)],
        [(48, 64), (64, 48), (48, 48)],
        [(48, 64)],
        [(48, 64)],
    ]
    assert np.ptp(cases[3].images[0]) == 0 and cases[4].score == 1
    photos = [(f"{i}.png", np.full((8 + i, 9, 3), i, np.uint8)) for i in range(6)]
    names = [case.name for case in cases_of(photos)]
    assert names == [*(f"{i}.png" for i in range(6)), "batch of 4", "blank"]
    assert [case.name for case in cases_of(photos[:1])] == ["0.png", "blank"]


@pytest.fixture
def about_of():
    def make(**changes) -> Description:
        values = {
            "thing_classes": (),
            "num_classes": 2,
            "input_format": "RGB",
            "pixel_mean": (0.0, 0.0, 0.0),
            "pixel_std": (1.0, 1.0, 1.0),
            "min_size_test": 32,
            "max_size_test": 64,
            "resize_with": "PIL",
            "size_divisibility": 32,
            "size": None,
            "max_detections": 3,
            "score_threshold": 0.0,
            "has_masks": True,
            "precision": "fp32",
        }
        return Description(**values | changes)

    return make
