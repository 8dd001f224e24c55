"""RoIAlign by bags against torchvision's kernel."""

import pytest
import torch
from detectron2.layers import ROIAlign

from queryinst.modeling.pooler import pool_levels
from queryinst.speedups.roi_align_bag import BagPooling

SCALE = 0.25


class BagROIAlign(ROIAlign):
    """One level of BagPooling, called as ROIAlign is."""

    def forward(self, x, rois):
        align = ROIAlign(self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        levels = torch.zeros(len(rois), dtype=torch.int64)
        return BagPooling(refuse)(torch.nn.ModuleList([align]), [x], rois, levels)


def refuse(*args):
    pytest.fail("left to the plain pooler")


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
def test_BagPooling_has_torchvisions_values_and_gradients(size, sampling_ratio):
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


def test_BagPooling_gives_the_same_of_channels_last_features():
    features = _features(torch.float32)
    align = BagROIAlign((7, 7), SCALE, 2)
    torch.testing.assert_close(
        align(features.contiguous(memory_format=torch.channels_last), _rois(torch.float32)),
        align(features, _rois(torch.float32)),
        rtol=0,
        atol=0,
    )


def test_BagPooling_passes_gradcheck():
    features = _features()[:, :1, :4, :4].contiguous().requires_grad_()
    rois = torch.tensor([[0, 1.0, 2.0, 13.0, 11.0], [1, -3.0, -2.0, 9.0, 20.0]]).double()
    align = BagROIAlign((2, 2), SCALE, 2)
    assert torch.autograd.gradcheck(lambda x: align(x, rois), (features,))


def test_BagPooling_gives_rois_no_gradient():
    rois = _rois().requires_grad_()
    BagROIAlign((2, 2), SCALE, 2)(_features().requires_grad_(), rois).sum().backward()
    assert rois.grad is None


def test_BagPooling_without_rois_gives_features_a_zero_gradient():
    features = _features().requires_grad_()
    pooled = BagROIAlign((7, 7), SCALE, 2)(features, torch.zeros(0, 5, dtype=torch.float64))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_BagPooling_gives_zeros_for_a_roi_without_a_defined_size():
    rois = torch.tensor([[0, float("nan"), 0, 10, 10]], dtype=torch.float64)
    assert torch.equal(
        BagROIAlign((2, 2), SCALE, 2)(_features(), rois), torch.zeros(1, 3, 2, 2).double()
    )


@pytest.mark.parametrize("sampling_ratio, aligned", [(0, True), (2, False)])
def test_BagPooling_leaves_what_it_does_not_do_to_torchvision(sampling_ratio, aligned):
    align = ROIAlign((3, 3), SCALE, sampling_ratio, aligned)
    rois = _rois()[:30]
    args = (torch.nn.ModuleList([align]), [_features()], rois, torch.zeros(30, dtype=torch.int64))
    assert torch.equal(BagPooling(pool_levels)(*args), align(_features(), rois))
    with pytest.raises(pytest.fail.Exception):
        BagPooling(refuse)(*args)


@pytest.mark.parametrize("num_rois", [37, 1, 0])
def test_BagPooling_pools_each_roi_from_its_level_and_those_of_none_as_zeros(num_rois):
    aligns = torch.nn.ModuleList([ROIAlign((3, 2), SCALE / 2**i, 2) for i in range(2)])
    features = [_features(), _features()[:, :, ::2, ::2].contiguous()]
    rois = _rois()[:num_rois]
    levels = torch.arange(num_rois) % 3 - 1  # -1: of none
    ours = BagPooling(refuse)(aligns, features, rois, levels)
    torch.testing.assert_close(
        ours, pool_levels(aligns, features, rois, levels), rtol=0, atol=1e-12
    )
    assert not ours[levels == -1].any()
