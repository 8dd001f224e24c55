"""Masks pasted on the CPU by matrix products, against Detectron2's sampling of a grid."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image

import queryinst.modeling.pasting as pasting
from queryinst.modeling.pasting import paste_masks


def random_boxes(num: int, height: int, width: int, largest: float) -> torch.Tensor:
    """Each overlaps the image; many cross its border."""
    centers = torch.rand(num, 2) * torch.tensor([float(width), float(height)])
    halves = 0.4 + torch.rand(num, 2) * largest / 2
    return torch.cat([centers - halves, centers + halves], dim=1)


@pytest.mark.parametrize("max_weights", [2**23, 1, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size, largest", [((64, 96), 60), ((61, 33), 400), ((1, 1), 3)])
def test_the_same_pixels_as_detectron2(size, largest, dtype, max_weights, monkeypatch):
    monkeypatch.setattr(pasting, "MAX_WEIGHTS", max_weights)
    torch.manual_seed(0)
    boxes = random_boxes(60, *size, largest).to(dtype)
    masks = torch.rand(60, 28, 28, dtype=dtype)
    found = paste_masks(masks, boxes, size)
    expected = paste_masks_in_image(masks, boxes, size)
    assert found.shape == expected.shape and found.dtype == torch.bool and expected.any()
    # Nothing but rounding at 0.5 exactly may differ.
    assert (found != expected).sum() <= 1e-5 * expected.numel()


def test_saturated_masks_end_where_their_boxes_do():
    boxes = torch.tensor([[2.5, 3.5, 9.5, 11.5], [2.0, 3.0, 9.0, 11.0], [-4.0, -4.0, 4.5, 4.5]])
    masks = torch.ones(3, 28, 28)
    found = paste_masks(masks, boxes, (16, 16))
    assert found.equal(paste_masks_in_image(masks, boxes, (16, 16)))


def test_masks_of_other_sizes():
    torch.manual_seed(0)
    masks, boxes = torch.rand(20, 14, 14), random_boxes(20, 40, 50, 40)
    assert paste_masks(masks, boxes, (40, 50)).equal(paste_masks_in_image(masks, boxes, (40, 50)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coordinates_are_not_rounded_to_half_precision(dtype):
    torch.manual_seed(0)
    masks, boxes = torch.rand(20, 28, 28).to(dtype), random_boxes(20, 600, 800, 300)
    expected = paste_masks(masks.float(), boxes, (600, 800))
    assert paste_masks(masks, boxes, (600, 800)).equal(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert paste_masks(masks, boxes, (600, 800)).equal(expected)


def test_masks_that_carry_gradients():
    torch.manual_seed(0)
    masks = torch.rand(3, 28, 28, requires_grad=True)
    boxes = random_boxes(3, 40, 50, 40).requires_grad_()
    found = paste_masks(masks, boxes, (40, 50))
    assert found.any() and not found.requires_grad
