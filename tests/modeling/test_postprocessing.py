"""Top-k over queries x classes, and masks pasted into pictures that are known."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from queryinst.modeling.postprocessing import paste_masks, postprocess, select_topk
from queryinst.structures import PreciseBoxes


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "num_images, num_queries, num_classes, max_detections",
    [(2, 4, 3, 5), (1, 4, 3, 12), (2, 4, 3, 100), (1, 1, 1, 1), (3, 5, 1, 2), (1, 1, 6, 4)],
)
def test_the_best_pairs_of_query_and_class(num_images, num_queries, num_classes, max_detections):
    logits = 3 * randn(num_images, num_queries, num_classes)
    topk = select_topk(logits, max_detections)
    for image, rows in enumerate(logits.tolist()):
        pairs = [
            (1 / (1 + math.exp(-logit)), label, query)
            for query, row in enumerate(rows)
            for label, logit in enumerate(row)
        ]
        best = sorted(pairs, reverse=True)[:max_detections]
        assert topk.scores[image].tolist() == pytest.approx([score for score, _, _ in best])
        assert topk.classes[image].tolist() == [label for _, label, _ in best]
        assert topk.query_idx[image].tolist() == [query for _, _, query in best]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_not_rounded_to_half_precision(dtype):
    logits = randn(1, 4, 3).to(dtype)
    topk = select_topk(logits, 12)
    assert topk.scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = logits.double().sigmoid().flatten().sort(descending=True).values
    torch.testing.assert_close(topk.scores[0].double(), expected, rtol=1e-6, atol=1e-7)


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
def test_a_mask_lies_where_it_was_predicted(box):
    found = paste_masks(disc()[None], torch.tensor([box]), (64, 96))[0]
    expected = draw(box, 64, 96)
    assert found.shape == (64, 96) and found.dtype == torch.bool
    assert expected.any() and not expected.all()
    # bins are coarser than pixels where the box is large: half a bin along the edge may differ
    assert (found & expected).sum() / (found | expected).sum() > 0.8


@pytest.mark.parametrize(
    "box", [(-31.5, -10.2, 40.7, 50.0), (80.0, 50.0, 130.0, 99.9), (-20, -20, 120, 90)]
)
def test_masks_of_boxes_across_the_border_are_cut_and_not_squeezed(box):
    """Pasted onto a larger canvas, then cropped to the picture."""
    torch.manual_seed(0)
    masks, margin = torch.rand(1, 28, 28), 64
    boxes = torch.tensor([box], dtype=torch.float32)
    large = paste_masks(masks, boxes + margin, (64 + 2 * margin, 96 + 2 * margin))[0]
    expected = large[margin : margin + 64, margin : margin + 96]
    found = paste_masks(masks, boxes, (64, 96))[0]
    # sums of other coordinates round otherwise: a pixel or two at 0.5 may differ
    assert expected.any() and not expected.all()
    assert (found != expected).sum() <= 2
    clipped = Boxes(boxes.clone())
    clipped.clip((64, 96))
    squeezed = paste_masks(masks, clipped.tensor, (64, 96))[0]
    assert (squeezed != expected).sum() > 20


@pytest.mark.parametrize(
    "box",
    [
        (-50.0, 10.0, -20.0, 40.0),
        (100.0, 10.0, 140.0, 40.0),
        (10.0, -40.0, 40.0, 0.0),
        (10.0, -60.0, 40.0, -20.0),
        (10.0, 64.0, 40.0, 80.0),
        (96.0, 64.0, 97.0, 65.0),
        (20.0, 20.0, 20.0, 40.0),  # no width
        (20.0, 20.0, 20.0, 20.0),
        (40.0, 40.0, 20.0, 20.0),  # upside down
        (math.nan, 0.0, 20.0, 20.0),
    ],
)
def test_boxes_outside_or_without_area_give_an_empty_mask(box):
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], box, [-9.0, -9.0, 106.0, 74.0]])
    found = paste_masks(torch.ones(3, 28, 28), boxes, (64, 96))
    assert not found[1].any()
    assert found[0].sum() == 32 * 32 and found[2].all()


@pytest.mark.parametrize(
    "box, expected",
    [
        ((-1e13, -1e13, 1e13, 1e13), 1.0),  # whole picture
        ((-1e13, 10.0, 1e13, 20.0), 10 / 64),
        ((48.0, -3e9, 1e12, 3e9), 0.5),
    ],
)
def test_boxes_beyond_32_bits(box, expected):
    """Six stages may each scale a box by 62: coordinates that no 32-bit integer holds."""
    found = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), (64, 96))
    assert found.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_an_object_of_one_pixel():
    found = paste_masks(torch.ones(1, 28, 28), torch.tensor([[11.0, 17.0, 12.0, 18.0]]), (32, 32))
    assert found.nonzero().tolist() == [[0, 17, 11]]


@pytest.mark.parametrize("score, kept", [(0.5, True), (0.4999, False)])
def test_half_is_inside(score, kept):
    masks = torch.full((1, 4, 4), score)
    found = paste_masks(masks, torch.tensor([[0.0, 0.0, 8.0, 8.0]]), (8, 8))
    assert found[0, 4, 4].item() is kept


def test_no_masks():
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


def test_detections_are_scaled_to_the_users_image_and_clipped_after_the_paste():
    given = make_instances([(8.0, 8.0, 40.0, 24.0), (-20.0, 30.0, 30.0, 80.0)])
    found = postprocess(given, 128, 288)  # twice as high, three times as wide
    assert found.image_size == (128, 288)
    assert found.pred_boxes.tensor.tolist() == [[24, 16, 120, 48], [0, 60, 90, 128]]
    assert found.pred_boxes.tensor.dtype == torch.float64
    for mask, box in zip(found.pred_masks, [(24, 16, 120, 48), (-60, 60, 90, 160)]):
        expected = draw([float(x) for x in box], 128, 288)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    assert found.pred_classes.tolist() == [0, 1]
    # what was given is as before
    assert given.pred_boxes.tensor[1].tolist() == [-20, 30, 30, 80]
    assert given.pred_masks.shape == (2, 1, 28, 28) and given.image_size == (64, 96)


def test_no_detection_is_dropped():
    """Detectron2's own postprocessing drops those whose clipped box is empty."""
    found = postprocess(make_instances([(8, 8, 40, 24), (-90, -90, -10, -10)]), 64, 96)
    assert len(found) == 2
    assert found.pred_masks[0].any() and not found.pred_masks[1].any()


@pytest.mark.parametrize("num", [0, 2])
def test_without_masks(num):
    found = postprocess(make_instances([(0, 0, 9, 9)] * num, masks=False), 32, 48)
    assert len(found) == num and not found.has("pred_masks")
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 4.5, 4.5]] * num


def test_nothing_detected():
    found = postprocess(make_instances([]), 32, 48)
    assert len(found) == 0 and found.pred_masks.shape == (0, 32, 48)
