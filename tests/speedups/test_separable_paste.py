"""Masks pasted on the CPU by matrix products, against Detectron2's sampling of a grid."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image

from queryinst.modeling.postprocessing import paste_masks
from queryinst.speedups import separable_paste
from queryinst.speedups.separable_paste import SeparablePaste, paste_separably


def random_boxes(num: int, height: int, width: int, largest: float) -> torch.Tensor:
    """Each overlaps the image; many cross its border."""
    centers = torch.rand(num, 2) * torch.tensor([float(width), float(height)])
    halves = 0.4 + torch.rand(num, 2) * largest / 2
    return torch.cat([centers - halves, centers + halves], dim=1)


@pytest.mark.parametrize("max_weights", [2**23, 1, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size, largest", [((64, 96), 60), ((61, 33), 400), ((1, 1), 3)])
def test_paste_separably_sets_the_same_pixels_as_detectron2(
    size, largest, dtype, max_weights, monkeypatch
):
    monkeypatch.setattr(separable_paste, "MAX_WEIGHTS", max_weights)
    torch.manual_seed(0)
    boxes = random_boxes(60, *size, largest).to(dtype)
    masks = torch.rand(60, 28, 28, dtype=dtype)
    ours = paste_separably(masks, boxes, size)
    expected = paste_masks_in_image(masks, boxes, size)
    assert ours.shape == expected.shape and ours.dtype == torch.bool and expected.any()
    # Nothing but rounding at 0.5 exactly may differ.
    assert (ours != expected).sum() <= 1e-5 * expected.numel()


def test_paste_separably_ends_saturated_masks_where_their_boxes_end():
    boxes = torch.tensor([[2.5, 3.5, 9.5, 11.5], [2.0, 3.0, 9.0, 11.0], [-4.0, -4.0, 4.5, 4.5]])
    masks = torch.ones(3, 28, 28)
    ours = paste_separably(masks, boxes, (16, 16))
    assert ours.equal(paste_masks_in_image(masks, boxes, (16, 16)))


def test_paste_separably_takes_masks_of_other_sizes():
    torch.manual_seed(0)
    masks, boxes = torch.rand(20, 14, 14), random_boxes(20, 40, 50, 40)
    assert paste_separably(masks, boxes, (40, 50)).equal(
        paste_masks_in_image(masks, boxes, (40, 50))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_paste_separably_does_not_round_coordinates_to_half_precision(dtype):
    torch.manual_seed(0)
    masks, boxes = torch.rand(20, 28, 28).to(dtype), random_boxes(20, 600, 800, 300)
    expected = paste_separably(masks.float(), boxes, (600, 800))
    assert paste_separably(masks, boxes, (600, 800)).equal(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert paste_separably(masks, boxes, (600, 800)).equal(expected)


def test_paste_separably_takes_masks_that_carry_gradients():
    torch.manual_seed(0)
    masks = torch.rand(3, 28, 28, requires_grad=True)
    boxes = random_boxes(3, 40, 50, 40).requires_grad_()
    ours = paste_separably(masks, boxes, (40, 50))
    assert ours.any() and not ours.requires_grad


@pytest.mark.parametrize("size", [(28, 28), (1, 1)])
def test_SeparablePaste_without_detections_gives_none(size):
    args = (torch.rand(0, *size), torch.rand(0, 4), (5, 7))
    ours, theirs = SeparablePaste(paste_masks)(*args), paste_masks(*args)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype) == ((0, 5, 7), torch.bool)


def test_SeparablePaste_leaves_tracers_and_other_devices_to_the_plain_function():
    calls = []
    paste = SeparablePaste(lambda masks, *args: calls.append(masks) or masks)
    masks = torch.rand(2, 28, 28)
    boxes = random_boxes(2, 16, 16, 9)
    torch.jit.trace(lambda masks: paste(masks, boxes, (16, 16)), masks, check_trace=False)
    paste(masks.to("meta"), boxes.to("meta"), (16, 16))
    assert len(calls) == 2
    paste(masks, boxes, (16, 16))
    assert len(calls) == 2
