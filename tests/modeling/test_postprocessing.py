"""Top-k over queries x classes, and masks pasted into pictures that are known."""

import math

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from queryinst.modeling.postprocessing import (
    paste_masks,
    postprocess,
    select_detections,
    to_rows,
    unique_queries,
)
from queryinst.structures import PreciseBoxes, StageOutput


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_output(logits: torch.Tensor) -> StageOutput:
    """Of a stage whose boxes tell their image and query."""
    num_images, num_queries = logits.shape[:2]
    boxes = torch.arange(num_images * num_queries * 4.0).view(num_images, num_queries, 4)
    nothing = torch.zeros(num_images, num_queries, 0)
    return StageOutput(logits, boxes, nothing, nothing)


@pytest.mark.parametrize(
    "num_images, num_queries, num_classes, max_detections",
    [(2, 4, 3, 5), (1, 4, 3, 12), (2, 4, 3, 100), (1, 1, 1, 1), (3, 5, 1, 2), (1, 1, 6, 4)],
)
def test_select_detections_takes_the_best_pairs_of_query_and_class(
    num_images, num_queries, num_classes, max_detections
):
    output = make_output(3 * randn(num_images, num_queries, num_classes))
    detections = select_detections(output, max_detections)
    for image, rows in enumerate(output.class_logits.tolist()):
        pairs = [
            (1 / (1 + math.exp(-logit)), label, query)
            for query, row in enumerate(rows)
            for label, logit in enumerate(row)
        ]
        best = sorted(pairs, reverse=True)[:max_detections]
        assert detections.scores[image].tolist() == pytest.approx([score for score, _, _ in best])
        assert detections.classes[image].tolist() == [label for _, label, _ in best]
        assert detections.query_idx[image].tolist() == [query for _, _, query in best]
        expected = [output.boxes[image, query].tolist() for _, _, query in best]
        assert detections.boxes[image].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_select_detections_does_not_round_scores_to_half_precision(dtype):
    logits = randn(1, 4, 3).to(dtype)
    scores = select_detections(make_output(logits), 12).scores
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = logits.double().sigmoid().flatten().sort(descending=True).values
    torch.testing.assert_close(scores[0].double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "query_idx, num_queries",
    [
        ([[3, 1, 3, 0]], 5),  # fewer queries detected than detections
        ([[2, 2, 2], [0, 1, 2]], 3),  # one for all detections; every query
        ([[4, 0, 4, 1, 4, 0, 2], [3, 3, 3, 3, 3, 3, 3]], 5),  # more detections than queries
        ([[6]], 9),
        ([[0, 0]], 1),
    ],
)
def test_unique_queries_holds_each_detected_query_once(query_idx, num_queries):
    given = torch.tensor(query_idx)
    queries, places = unique_queries(given, num_queries)
    assert queries.shape == (len(given), min(given.shape[1], num_queries))
    assert queries.gather(1, places).equal(given)
    for row, detected in zip(queries.tolist(), query_idx):
        assert len(set(row)) == len(row) and set(row) <= set(range(num_queries))
        assert set(row[: len(set(detected))]) == set(detected), "the detected ones first"


def test_to_rows_counts_the_queries_of_the_images_before():
    assert to_rows(torch.tensor([[3, 0], [1, 1], [0, 4]]), 5).tolist() == [[3, 0], [6, 6], [10, 14]]


def disc(size: int = 28) -> torch.Tensor:
    """(size, size) scores: 1 inside of the inscribed circle's left half, 0 elsewhere."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return ((axis[:, None] ** 2 + axis**2 < 1) & (axis < 0)).float()


def draw(box, height: int, width: int) -> torch.Tensor:
    """The same half disc drawn straight into the picture."""
    x0, y0, x1, y1 = box
    x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
    y = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
    return (y[:, None] ** 2 + x**2 < 1) & (x < 0)


@pytest.mark.parametrize(
    "box",
    [
        (20.0, 10.0, 76.0, 52.0),
        (-30.0, -20.0, 60.0, 40.0),  # crosses two borders
        (70.3, 30.7, 140.9, 111.1),
        (-460.0, -300.0, 600.0, 400.0),  # far larger than the picture
    ],
)
def test_paste_masks_draws_a_mask_where_it_was_predicted(box):
    actual = paste_masks(disc()[None], torch.tensor([box]), (64, 96))[0]
    expected = draw(box, 64, 96)
    assert actual.shape == (64, 96) and actual.dtype == torch.bool
    assert expected.any() and not expected.all()
    # bins are coarser than pixels where the box is large: half a bin along the edge may differ
    assert (actual & expected).sum() / (actual | expected).sum() > 0.8


@pytest.mark.parametrize(
    "box", [(-31.5, -10.2, 40.7, 50.0), (80.0, 50.0, 130.0, 99.9), (-20, -20, 120, 90)]
)
def test_paste_masks_cuts_masks_at_the_border_and_does_not_squeeze_them(box):
    """Pasted onto a larger canvas, then cropped to the picture."""
    torch.manual_seed(0)
    masks, margin = torch.rand(1, 28, 28), 64
    boxes = torch.tensor([box], dtype=torch.float32)
    large = paste_masks(masks, boxes + margin, (64 + 2 * margin, 96 + 2 * margin))[0]
    expected = large[margin : margin + 64, margin : margin + 96]
    actual = paste_masks(masks, boxes, (64, 96))[0]
    # sums of other coordinates round otherwise: a pixel or two at 0.5 may differ
    assert expected.any() and not expected.all()
    assert (actual != expected).sum() <= 2
    clipped = Boxes(boxes.clone())
    clipped.clip((64, 96))
    squeezed = paste_masks(masks, clipped.tensor, (64, 96))[0]
    assert (squeezed != expected).sum() > 20


@pytest.mark.parametrize(
    "box, expected",
    [
        ((-1e13, -1e13, 1e13, 1e13), 1.0),  # whole picture
        ((-1e13, 10.0, 1e13, 20.0), 10 / 64),
        ((48.0, -3e9, 1e12, 3e9), 0.5),
    ],
)
def test_paste_masks_of_boxes_beyond_32_bits(box, expected):
    """Six stages may each scale a box by 62: coordinates that no 32-bit integer holds."""
    actual = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), (64, 96))
    assert actual.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_paste_masks_of_one_pixel():
    actual = paste_masks(torch.ones(1, 28, 28), torch.tensor([[11.0, 17.0, 12.0, 18.0]]), (32, 32))
    assert actual.nonzero().tolist() == [[0, 17, 11]]


@pytest.mark.parametrize("score, kept", [(0.5, True), (0.4999, False)])
def test_paste_masks_sets_a_pixel_at_a_half(score, kept):
    masks = torch.full((1, 4, 4), score)
    actual = paste_masks(masks, torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (8, 8))
    assert actual[0, 4, 4].item() is kept


def test_paste_masks_of_no_masks():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 7)).shape == (0, 5, 7)


def make_instances(boxes, size=(64, 96), masks=True) -> Instances:
    num = len(boxes)
    instances = Instances(size)
    instances.pred_boxes = PreciseBoxes(torch.tensor(boxes, dtype=torch.float64).view(-1, 4))
    instances.scores = torch.linspace(0.9, 0.1, num)
    instances.pred_classes = torch.arange(num)
    if masks:
        instances.pred_masks = disc().expand(num, 1, 28, 28)
    return instances


def test_postprocess_scales_to_the_users_image_and_clips_after_the_paste():
    given = make_instances([(8.0, 8.0, 40.0, 24.0), (-20.0, 30.0, 30.0, 80.0)])
    actual = postprocess(given, 128, 288)  # twice as high, three times as wide
    assert actual.image_size == (128, 288)
    assert actual.pred_boxes.tensor.tolist() == [[24, 16, 120, 48], [0, 60, 90, 128]]
    assert actual.pred_boxes.tensor.dtype == torch.float64
    for mask, box in zip(actual.pred_masks, [(24, 16, 120, 48), (-60, 60, 90, 160)]):
        expected = draw([float(x) for x in box], 128, 288)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    assert actual.pred_classes.tolist() == [0, 1]
    # what was given is as before
    assert given.pred_boxes.tensor[1].tolist() == [-20, 30, 30, 80]
    assert given.pred_masks.shape == (2, 1, 28, 28) and given.image_size == (64, 96)


WITHOUT_AREA = [
    (-50.0, 10.0, -20.0, 40.0),  # left of the image
    (-50.0, 10.0, 0.0, 40.0),
    (100.0, 10.0, 140.0, 40.0),  # right
    (96.0, 10.0, 140.0, 40.0),
    (10.0, -60.0, 40.0, -20.0),  # above
    (10.0, -40.0, 40.0, 0.0),
    (10.0, 70.0, 40.0, 80.0),  # below
    (10.0, 64.0, 40.0, 80.0),
    (96.0, 64.0, 97.0, 65.0),  # at the corner
    (20.0, 20.0, 20.0, 40.0),  # no width
    (20.0, 20.0, 40.0, 20.0),  # no height
    (20.0, 20.0, 20.0, 20.0),
    (40.0, 40.0, 20.0, 20.0),  # upside down
]
WITH_AREA = [
    (8.0, 8.0, 40.0, 40.0),
    (-9.0, -9.0, 106.0, 74.0),  # around the image
    (-50.0, -50.0, 0.25, 0.25),  # partly inside
    (95.5, 10.0, 140.0, 40.0),
    (0.0, 0.0, 96.0, 64.0),
]


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("box", WITHOUT_AREA)
def test_postprocess_drops_a_detection_without_area_in_the_image(box, masks):
    given = make_instances([(8.0, 8.0, 40.0, 40.0), box, (-9.0, -9.0, 106.0, 74.0)], masks=masks)
    if masks:
        given.pred_masks = torch.ones(3, 1, 28, 28)
    actual = postprocess(given, 64, 96)
    assert actual.pred_classes.tolist() == [0, 2]
    assert actual.scores.tolist() == given.scores[[0, 2]].tolist()
    assert actual.pred_boxes.tensor.tolist() == [[8, 8, 40, 40], [0, 0, 96, 64]]
    assert actual.has("pred_masks") == masks
    if masks:
        assert actual.pred_masks[0].sum() == 32 * 32 and actual.pred_masks[1].all()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("height, width", [(64, 96), (128, 96), (31, 47), (640, 960)])
def test_postprocess_keeps_what_detectron2_keeps(height, width, masks):
    boxes = [box for pair in zip(WITHOUT_AREA, WITH_AREA) for box in pair] + WITHOUT_AREA[5:]
    actual = postprocess(make_instances(boxes, masks=masks), height, width)
    theirs = make_instances(boxes, masks=False)
    theirs.pred_boxes = Boxes(theirs.pred_boxes.tensor)
    theirs = detector_postprocess(theirs, height, width)
    assert actual.pred_classes.tolist() == theirs.pred_classes.tolist() == [1, 3, 5, 7, 9]
    torch.testing.assert_close(actual.pred_boxes.tensor.float(), theirs.pred_boxes.tensor)


def test_postprocess_drops_all_and_leaves_empty_masks():
    actual = postprocess(make_instances(WITHOUT_AREA), 32, 48)
    assert len(actual) == 0 and actual.pred_boxes.tensor.shape == (0, 4)
    assert actual.pred_masks.shape == (0, 32, 48) and actual.pred_masks.dtype == torch.bool


def test_postprocess_pastes_only_what_it_keeps_by_the_function_it_is_given():
    calls = []

    def paste(masks, boxes, image_size):
        calls.append((masks.shape, boxes.tolist(), image_size))
        return torch.ones(len(masks), *image_size, dtype=torch.bool)

    given = make_instances([(-90, -90, -10, -10), (-8, 8, 40, 24)])
    actual = postprocess(given, 128, 96, paste)
    assert calls == [((1, 28, 28), [[-8, 16, 40, 48]], (128, 96))], "not clipped"
    assert len(actual) == 1 and actual.pred_masks.all()


@pytest.mark.parametrize("num", [0, 2])
def test_postprocess_without_masks(num):
    actual = postprocess(make_instances([(0, 0, 9, 9)] * num, masks=False), 32, 48)
    assert len(actual) == num and not actual.has("pred_masks")
    assert actual.pred_boxes.tensor.tolist() == [[0, 0, 4.5, 4.5]] * num


def test_postprocess_of_no_detections():
    actual = postprocess(make_instances([]), 32, 48)
    assert len(actual) == 0 and actual.pred_masks.shape == (0, 32, 48)
