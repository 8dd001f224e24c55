"""BagROIAlign against torchvision's kernel."""

import pytest
import torch
from detectron2.layers import ROIAlign

from queryinst.modeling.roi_align import BagROIAlign

SCALE = 0.25


def _features(dtype=torch.float64) -> torch.Tensor:
    """(2, 3, 12, 17): 48 x 68 pixels of the image."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 12, 17, dtype=dtype, generator=generator)


def _rois(dtype=torch.float64) -> torch.Tensor:
    """Random RoIs, many of which cross the border, then special ones."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(30, 2, dtype=dtype, generator=generator) * 90 - 20
    sizes = torch.rand(30, 2, dtype=dtype, generator=generator) * 60
    special = torch.tensor(
        [
            [0, 0, 0, 0],  # no area
            [10, 10, 10.5, 10.5],  # less than a bin
            [-300, -300, -200, -200],  # outside
            [66, 46, 300, 300],  # nearly outside
            [-100, -100, 200, 200],  # around everything
            [30, 30, 20, 10],  # inverted
            [0, 0, 68, 48],  # the image
        ],
        dtype=dtype,
    )
    boxes = torch.cat([torch.cat([corners, corners + sizes], dim=1), special])
    image_idx = torch.arange(len(boxes), dtype=dtype)[:, None] % 2
    return torch.cat([image_idx, boxes], dim=1)


@pytest.mark.parametrize("size", [1, 7, (3, 5), 14])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_values_and_gradients_equal_torchvision(size, sampling_ratio):
    size = (size, size) if isinstance(size, int) else size
    ours_in = _features().requires_grad_()
    theirs_in = _features().requires_grad_()
    ours = BagROIAlign(size, SCALE, sampling_ratio)(ours_in, _rois())
    theirs = ROIAlign(size, SCALE, sampling_ratio)(theirs_in, _rois())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn(theirs.shape, dtype=theirs.dtype)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-11)


def test_channels_last_features_give_the_same():
    features = _features(torch.float32)
    align = BagROIAlign((7, 7), SCALE, 2)
    torch.testing.assert_close(
        align(features.contiguous(memory_format=torch.channels_last), _rois(torch.float32)),
        align(features, _rois(torch.float32)),
        rtol=0,
        atol=0,
    )


def test_gradcheck():
    features = _features()[:, :1, :4, :4].contiguous().requires_grad_()
    rois = torch.tensor([[0, 1.0, 2.0, 13.0, 11.0], [1, -3.0, -2.0, 9.0, 20.0]]).double()
    align = BagROIAlign((2, 2), SCALE, 2)
    assert torch.autograd.gradcheck(lambda x: align(x, rois), (features,))


def test_rois_get_no_gradient():
    rois = _rois().requires_grad_()
    BagROIAlign((2, 2), SCALE, 2)(_features().requires_grad_(), rois).sum().backward()
    assert rois.grad is None


def test_without_rois_features_get_a_zero_gradient():
    features = _features().requires_grad_()
    pooled = BagROIAlign((7, 7), SCALE, 2)(features, torch.zeros(0, 5, dtype=torch.float64))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_roi_without_a_defined_size_gives_zeros():
    rois = torch.tensor([[0, float("nan"), 0, 10, 10]], dtype=torch.float64)
    assert torch.equal(
        BagROIAlign((2, 2), SCALE, 2)(_features(), rois), torch.zeros(1, 3, 2, 2).double()
    )


@pytest.mark.parametrize("sampling_ratio, aligned", [(0, True), (2, False)])
def test_what_it_does_not_do_is_left_to_torchvision(sampling_ratio, aligned):
    ours = BagROIAlign((3, 3), SCALE, sampling_ratio, aligned)(_features(), _rois()[:30])
    theirs = ROIAlign((3, 3), SCALE, sampling_ratio, aligned)(_features(), _rois()[:30])
    assert torch.equal(ours, theirs)
