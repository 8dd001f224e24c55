"""Mask targets of shapes whose place is known, drawn by hand."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks

from queryinst.modeling.targets import crop_gt_masks
from queryinst.structures import BatchTargets, MatchedIndices

SIZE = 28


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def triangle(height: int, width: int) -> torch.Tensor:
    """Below the diagonal from top left to bottom right."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return y * width > x * height


def make_targets(masks: list, nums: list[int]) -> BatchTargets:
    num = sum(nums)
    zeros = torch.zeros(num, dtype=torch.int64)
    return BatchTargets(torch.zeros(num, 4), zeros, nums, torch.ones(len(nums), 4), masks)


def crop_one(mask: torch.Tensor, box, padded_size=None, size: int = SIZE, dtype=torch.float32):
    """The target of one mask in one box."""
    targets = make_targets([BitMasks(mask[None])], [1])
    boxes = torch.tensor([[box]], dtype=dtype)
    first = torch.zeros(1, dtype=torch.int64)
    padded_size = padded_size or tuple(mask.shape)
    actual = crop_gt_masks(targets, boxes, [MatchedIndices(first, first)], 1, padded_size, size)
    assert actual.shape == (1, 1, size, size) and actual.dtype == torch.bool
    return actual[0, 0]


def supersample(mask: torch.Tensor, box, size: int = SIZE) -> np.ndarray:
    """Share of each bin that the mask covers: 64 samples a bin, each of its nearest pixel."""
    x0, y0, x1, y1 = box
    steps = (np.arange(8 * size) + 0.5) / (8 * size)
    columns = np.floor(x0 + (x1 - x0) * steps).astype(int).clip(0, mask.shape[1] - 1)
    rows = np.floor(y0 + (y1 - y0) * steps).astype(int).clip(0, mask.shape[0] - 1)
    return mask.numpy()[np.ix_(rows, columns)].reshape(size, 8, size, 8).mean((1, 3))


def test_crop_gt_masks_of_a_rectangle_whose_edges_are_bin_edges():
    # a box of 2 pixels a bin; the rectangle covers its columns 3..16 and rows 5..27
    mask = rectangle(96, 96, 20 + 6, 10 + 10, 20 + 34, 10 + 56)
    expected = rectangle(SIZE, SIZE, 3, 5, 17, 28)
    assert torch.equal(crop_one(mask, [20.0, 10.0, 76.0, 66.0]), expected)


def test_crop_gt_masks_copies_the_picture_at_one_pixel_a_bin():
    torch.manual_seed(0)
    picture = torch.rand(SIZE, SIZE) > 0.5
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[7 : 7 + SIZE, 40 : 40 + SIZE] = picture
    assert torch.equal(crop_one(mask, [40.0, 7.0, 40.0 + SIZE, 7.0 + SIZE]), picture)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 120, 90), (10.5, 3.2, 99.7, 81.9), (30, 20, 61.3, 88.8), (65.2, 50.1, 75.9, 64.3)],
)
@pytest.mark.parametrize("shape", ["triangle", "rectangle"])
def test_crop_gt_masks_sets_a_bin_where_the_mask_covers_half_of_it(box, shape):
    mask = triangle(90, 120) if shape == "triangle" else rectangle(90, 120, 25, 31, 70, 60)
    actual, covered = crop_one(mask, box).numpy(), supersample(mask, box)
    assert 0.05 < covered.mean() < 0.95, "the box must see an edge"
    # bilinear interpolation softens the edge, at most by a pixel
    pixel = max(SIZE / (box[2] - box[0]), SIZE / (box[3] - box[1]))
    clear = np.abs(covered - 0.5) > 0.35
    if pixel > 1:  # several bins a pixel: leave out those next to the edge
        reach = math.ceil(pixel / 2)
        padded = np.pad(covered, reach, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2)
        clear = windows.max((2, 3)) - windows.min((2, 3)) == 0
    assert clear.mean() > 0.3
    np.testing.assert_array_equal(actual[clear], covered[clear] > 0.5)
    assert (actual != (covered >= 0.5)).mean() < 0.05 * max(1, pixel)


@pytest.mark.parametrize(
    "box, clipped",
    [
        ((-28, -10, 28, 56), (0, 0, 28, 56)),
        ((40, 20, 130, 77), (40, 20, 64, 56)),
        ((-9e5, -9e5, 9e5, 9e5), (0, 0, 64, 56)),
    ],
)
def test_crop_gt_masks_clips_boxes_to_the_padded_batch_before_the_crop(box, clipped):
    mask = triangle(56, 64)
    actual = crop_one(mask, [float(x) for x in box])
    assert torch.equal(actual, crop_one(mask, [float(x) for x in clipped]))
    covered = supersample(mask, clipped)
    clear = np.abs(covered - 0.5) > 0.35
    np.testing.assert_array_equal(actual.numpy()[clear], covered[clear] > 0.5)


def test_crop_gt_masks_takes_padding_for_background():
    """An image of 40 x 40 in a batch of 56 x 56: the box reaches into the padding unclipped."""
    actual = crop_one(torch.ones(40, 40, dtype=torch.bool), [28.0, 0.0, 84.0, 56.0], (56, 56))
    # of the 28 x 56 pixels within the batch 12 x 40 are the image
    assert torch.equal(actual, rectangle(SIZE, SIZE, 0, 0, 12, 20))


@pytest.mark.parametrize("box", [(90, 10, 120, 30), (-50, -50, -20, -20), (10, 10, 10, 10)])
def test_crop_gt_masks_of_boxes_that_hold_nothing(box):
    """Wholly outside or without area, clipped to a line or a point: no error, an empty target."""
    actual = crop_one(rectangle(56, 64, 30, 30, 40, 40), [float(x) for x in box])
    assert not actual.any()


def test_crop_gt_masks_of_one_pixel():
    mask = rectangle(32, 32, 11, 17, 12, 18)
    assert crop_one(mask, [11.0, 17.0, 12.0, 18.0]).float().mean() > 0.2
    assert crop_one(mask, [2.0, 3.0, 30.0, 31.0]).nonzero().tolist() == [[14, 9]]


@pytest.mark.parametrize("size", [2, 14, 56])
def test_crop_gt_masks_of_any_resolution(size):
    mask = rectangle(64, 64, 0, 0, 32, 64)
    expected = rectangle(size, size, 0, 0, size // 2, size)
    assert torch.equal(crop_one(mask, [0.0, 0.0, 64.0, 64.0], size=size), expected)


def test_crop_gt_masks_of_polygons_is_that_of_their_bitmask():
    polygons = [
        [np.array([10.0, 10, 50, 12, 40, 45])],
        [np.array([2.0, 2, 20, 2, 20, 30, 2, 30]), np.array([30.0, 30, 60, 30, 45, 50])],
    ]
    masks = PolygonMasks(polygons)
    bits = BitMasks.from_polygon_masks(masks, 56, 64)
    boxes = torch.tensor([[[8.0, 8.0, 52.0, 47.0], [0.0, 0.0, 64.0, 56.0]]])
    match = MatchedIndices(torch.arange(2), torch.arange(2))
    actual = [
        crop_gt_masks(make_targets([x], [2]), boxes, [match], 4, (64, 64), SIZE)
        for x in (masks, bits)
    ]
    assert torch.equal(*actual)
    assert 0.1 < actual[0].float().mean() < 0.9


def test_crop_gt_masks_keeps_the_order_of_the_matches():
    """Two images of 3 and 1 instances, two queries: one instance of the first is unmatched."""
    shapes = [rectangle(32, 32, 4 * i, 4 * i, 32, 32) for i in range(3)]
    lone = rectangle(24, 40, 0, 0, 20, 24)
    targets = make_targets([BitMasks(torch.stack(shapes)), BitMasks(lone[None])], [3, 1])
    matches = [
        MatchedIndices(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 3])),
        MatchedIndices(torch.tensor([0, 1, 3]), torch.tensor([1, 2, 3])),
    ]
    torch.manual_seed(0)
    corner = torch.rand(2, 3, 2) * 10
    boxes = torch.cat([corner, corner + 8 + torch.rand(2, 3, 2) * 20], -1)
    actual = crop_gt_masks(targets, boxes, matches, 2, (32, 40), SIZE)
    assert actual.shape == (2, 3, SIZE, SIZE)
    for stage, gts in enumerate([(2, 0, 3), (1, 2, 3)]):
        for pair, gt in enumerate(gts):
            mask = (shapes + [lone])[gt]
            alone = crop_one(mask, boxes[stage, pair].tolist(), (32, 40))
            assert torch.equal(actual[stage, pair], alone)


@pytest.mark.parametrize("nums", [[0], [0, 0]])
def test_crop_gt_masks_without_instances(nums):
    empty = [BitMasks(torch.zeros(0, 32, 32, dtype=torch.bool)) for _ in nums]
    none = torch.zeros(0, dtype=torch.int64)
    actual = crop_gt_masks(
        make_targets(empty, nums),
        torch.zeros(3, 0, 4),
        [MatchedIndices(none, none)] * 3,
        5,
        (32, 32),
        SIZE,
    )
    assert actual.shape == (3, 0, SIZE, SIZE)


def test_crop_gt_masks_does_not_round_float64_boxes():
    mask = rectangle(64, 64, 0, 0, 32, 64)
    # a bin of 2 pixels, half covered but for less than float32 can tell
    for shift, expected in [(-1e-9, True), (1e-9, False)]:
        actual = crop_one(mask, [3.0 + shift, 0.0, 59.0 + shift, 56.0], dtype=torch.float64)
        assert actual[0, 14].item() is expected
