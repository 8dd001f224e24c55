import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as coco_mask

from queryinst_runtime.masks import (
    bounds_of,
    decode_rle,
    encode_crop,
    encode_rle,
    paste_crop,
    place,
)
from queryinst_runtime.polygons import contours_of

MASKS = {
    "noise": np.random.default_rng(0).random((37, 53)) > 0.5,
    "block": np.pad(np.ones((20, 9), bool), ((3, 200), (7, 100))),
    "empty": np.zeros((5, 7), bool),
    "full": np.ones((5, 7), bool),
    "one pixel": np.ones((1, 1), bool),
    "long runs": np.pad(np.ones((1, 1), bool), ((2000, 1000), (40, 3))),
}


@pytest.mark.parametrize("name", MASKS)
def test_encode_rle_equals_pycocotools(name):
    mask = MASKS[name]
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    rle = encode_rle(mask)
    assert rle == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    assert np.array_equal(decode_rle(rle), mask)


@pytest.mark.parametrize("top, left, height, width", [(0, 0, 6, 9), (0, 2, 6, 9), (3, 1, 20, 20)])
@pytest.mark.parametrize("kind", ["noise", "full", "empty"])
def test_encode_crop_equals_that_of_the_whole_image(kind, top, left, height, width):
    """Crops as high as the image have runs that go on in the next column."""
    crop = {"noise": np.random.default_rng(0).random((6, 7)) > 0.4}.get(kind)
    crop = np.full((6, 7), kind == "full") if crop is None else crop
    mask = place([(top, left, crop)], height, width)[0]
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    rle = encode_crop(top, left, crop, height, width)
    assert rle == {"size": [height, width], "counts": expected["counts"].decode()}


def test_decode_rle_takes_plain_counts_and_bytes():
    expected = np.array([[0, 1], [1, 0]], bool)
    assert np.array_equal(decode_rle({"size": [2, 2], "counts": [1, 2, 1]}), expected)
    counts = encode_rle(expected)["counts"].encode()
    assert np.array_equal(decode_rle({"size": [2, 2], "counts": counts}), expected)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 1, 1], [-1, 5], "11"])
def test_decode_rle_refuses_counts_of_another_size(counts):
    with pytest.raises(ValueError, match="not of 2 x 2 pixels"):
        decode_rle({"size": [2, 2], "counts": counts})


@pytest.mark.parametrize("num_pixels", [1, 28])
def test_paste_crop_equals_detectron2(num_pixels):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-20, 90, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 0.1], 1).astype(np.float32)
    boxes = boxes[
        ((boxes[:, 2:] > 0) & (boxes[:, :2] < [64, 48])).all(1)
    ]  # as postprocessing keeps
    boxes[0] = [10.2, 10.2, 10.4, 10.4]  # within a pixel
    scores = rng.random((len(boxes), num_pixels, num_pixels), dtype=np.float32)
    expected = paste_masks_in_image(
        torch.from_numpy(scores), torch.from_numpy(boxes), (48, 64), threshold=0.5
    ).bool()
    pasted = place((paste_crop(s, box, 48, 64) for s, box in zip(scores, boxes)), 48, 64)
    different = pasted != expected.numpy()
    assert pasted.any() and different.sum() <= 3  # where 0.5 is hit but for rounding


def test_paste_crop_of_a_box_outside_is_empty():
    scores = np.ones((28, 28), np.float32)
    for box in ([-50, -50, -10, -10], [100, 100, 120, 120], [10, -30, 20, -5]):
        assert not place([paste_crop(scores, box, 48, 64)], 48, 64).any()


@pytest.mark.parametrize("name", MASKS)
def test_bounds_of_are_tight(name):
    mask = MASKS[name]
    top, left, bottom, right = bounds_of(mask)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    if mask.any():
        assert mask[top].any() and mask[bottom - 1].any()
        assert mask[:, left].any() and mask[:, right - 1].any()


def test_contours_of_run_along_the_borders_of_pixels():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    mask[5, 0] = True  # a part of one pixel
    outlines = contours_of(100, 1000, mask)
    found = {tuple(sorted(map(tuple, outline.tolist()))) for outline in outlines}
    block = ((1002, 101), (1002, 104), (1007, 101), (1007, 104))
    pixel = ((1000, 105), (1000, 106), (1001, 105), (1001, 106))
    assert found == {block, pixel}
    assert contours_of(0, 0, np.zeros((3, 3), bool)) == []


def test_contours_of_give_the_mask_back():
    yy, xx = np.mgrid[:60, :80]
    mask = ((xx - 40) / 30) ** 2 + ((yy - 30) / 20) ** 2 < 1
    mask[25:35, 5:75] = True  # concave corners
    polygons = [outline.flatten().tolist() for outline in contours_of(0, 0, mask)]
    back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 60, 80)))
    assert (back.astype(bool) ^ mask).sum() <= 0.01 * mask.sum()
