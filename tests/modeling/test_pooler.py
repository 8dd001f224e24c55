"""RoI features against Detectron2's own ROIPooler, and RoIs that it was not made for."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from queryinst.modeling.pooler import RoIFeaturePooler, to_rois
from queryinst.testing import tiny_cfg

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def make(cls=RoIFeaturePooler, size: int = 3):
    return cls(output_size=size, scales=SCALES, sampling_ratio=2, pooler_type="ROIAlignV2")


def make_features(num_images: int = 2, channels: int = 3, side: int = 512, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    sides = [int(side * scale) for scale in SCALES]
    return [torch.randn(num_images, channels, s, s, generator=generator) for s in sides]


def random_boxes(num: int, seed: int = 0) -> torch.Tensor:
    """Boxes of 4 to 800 pixels, as many of each magnitude, some beyond the image."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(num, 4, generator=generator)
    width = 4 * 160 ** unit[:, 2:3]
    size = torch.cat([width, width * (0.75 + 0.5 * unit[:, 3:])], 1)
    corner = unit[:, :2] * 500 - 20
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize("nums", [(20, 12), (5, 0), (0, 5), (0, 0)])
def test_roi_feature_pooler_pools_as_detectron2s(nums):
    features = make_features()
    boxes = [random_boxes(num, seed) for seed, num in enumerate(nums)]
    image_idx = torch.tensor([0] * nums[0] + [1] * nums[1])
    actual = make()(features, to_rois(torch.cat(boxes), image_idx))
    expected = make(ROIPooler)(features, [Boxes(b) for b in boxes])
    torch.testing.assert_close(actual, expected, rtol=0, atol=6e-5)  # float32; 1e-12 in float64
    assert actual.shape == (sum(nums), 3, 3, 3)


@pytest.mark.parametrize(
    "side, level", [(1, 0), (56, 0), (111, 0), (113, 1), (223, 1), (225, 2), (449, 3), (1200, 3)]
)
def test_roi_feature_pooler_takes_the_level_of_a_boxs_size(side, level):
    """floor(log2(side / 56)), at most the last: constant maps say which one it was."""
    features = [torch.full_like(x, float(i)) for i, x in enumerate(make_features(1, 1))]
    center = 256.0
    roi = torch.tensor([[0, center - side / 2, center - side / 2, 0, 0]])
    roi[0, 3:] = center + side / 2
    assert min(3, max(0, math.floor(math.log2(side / 56)))) == level
    pooled = make()(features, roi)[0, 0, 1, 1]  # the middle bin, never beyond the map
    assert pooled.item() == pytest.approx(level)


def test_roi_feature_pooler_gives_the_middles_of_the_bins_of_a_linear_picture():
    x = (torch.arange(128) + 0.5) * 4  # pixel coordinates of the middles of p2's columns
    picture = x.expand(1, 1, 128, 128).contiguous()
    features = [picture, *make_features(1, 1)[1:]]
    roi = torch.tensor([[0.0, 100.0, 40.0, 148.0, 64.0]])
    actual = make(size=3)(features, roi)[0, 0]
    expected = torch.tensor([100 + 48 / 3 * (i + 0.5) for i in range(3)])
    torch.testing.assert_close(actual, expected.expand(3, 3))


@pytest.mark.parametrize(
    "box",
    [
        (math.nan,) * 4,
        (10.0, 10.0, math.nan, 40.0),
        (40.0, 10.0, 10.0, 40.0),  # negative area
        (-900.0, -900.0, -800.0, -800.0),  # wholly outside
    ],
)
def test_roi_feature_pooler_gives_zeros_for_boxes_without_a_place(box):
    features = make_features(1)
    good = random_boxes(3)
    boxes = torch.cat([good[:1], torch.tensor([box]), good[1:]])
    actual = make()(features, to_rois(boxes, torch.zeros(4, dtype=torch.int64)))
    assert not actual[1].any()
    alone = make()(features, to_rois(good, torch.zeros(3, dtype=torch.int64)))
    torch.testing.assert_close(actual[[0, 2, 3]], alone)


@pytest.mark.parametrize("box", [(20.0, 20.0, 20.0, 20.0), (20.3, 20.7, 21.3, 21.7)])
def test_roi_feature_pooler_interpolates_points_and_single_pixels(box):
    features = make_features(1)
    actual = make()(features, to_rois(torch.tensor([box]), torch.tensor([0])))[0]
    x, y = ((box[0] + box[2]) / 8 - 0.5), ((box[1] + box[3]) / 8 - 0.5)  # on p2
    left, top = math.floor(x), math.floor(y)
    wx, wy = x - left, y - top
    patch = features[0][0, :, top : top + 2, left : left + 2]
    weights = torch.tensor([[(1 - wy) * (1 - wx), (1 - wy) * wx], [wy * (1 - wx), wy * wx]])
    torch.testing.assert_close(actual[:, 1, 1], (patch * weights).sum((1, 2)))


def test_roi_feature_pooler_in_float64_and_its_gradients():
    features = [x.double().requires_grad_() for x in make_features()]
    boxes = random_boxes(40).double() + 1e-9  # lost in float32
    image_idx = torch.arange(40) % 2
    actual = make()(features, to_rois(boxes, image_idx))
    assert actual.dtype == torch.float64
    exact = make()(features, to_rois(boxes.float().double(), image_idx))
    assert 0 < (actual - exact).abs().max() < 1e-6
    actual.sum().backward()
    assert all(x.grad.any() for x in features)


def test_roi_feature_pooler_keeps_the_graph_without_rois():
    features = [x.requires_grad_() for x in make_features()]
    pooled = make()(features, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 3, 3)
    pooled.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in features)


@pytest.mark.parametrize("dtype, step", [(torch.float16, 0.5), (torch.bfloat16, 4.0)])
def test_roi_feature_pooler_does_not_round_boxes_to_half_precision(dtype, step):
    """What the coordinates would be rounded by is `step` pixels at 800."""
    features = [x.to(dtype) for x in make_features(1, 1, side=1024)]
    rois = torch.tensor([[0.0, 801.7, 100.2, 811.3, 110.1]])
    actual = make()(features, rois)
    assert actual.dtype == dtype
    exact = make()([x.double() for x in features], rois.double())
    rounded = make()([x.double() for x in features], (rois / step).round().double() * step)
    torch.testing.assert_close(actual.double(), exact, rtol=0.01, atol=0.01)
    assert (rounded - exact).abs().max() > 0.04


LEVELS = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}


def test_roi_feature_pooler_reads_its_heads_keys():
    cfg = tiny_cfg(
        MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION=5,
        MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION=9,
        MODEL__ROI_MASK_HEAD__POOLER_SAMPLING_RATIO=1,
    )
    box, mask = (
        RoIFeaturePooler(cfg, head, LEVELS)
        for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD)
    )
    assert (box.output_size, mask.output_size) == ((5, 5), (9, 9))
    assert [pooler.sampling_ratio for pooler in box.level_poolers] == [2] * 4
    assert [pooler.sampling_ratio for pooler in mask.level_poolers] == [1] * 4
    assert [pooler.spatial_scale for pooler in mask.level_poolers] == list(SCALES)


def test_roi_feature_pooler_names_a_level_that_the_backbone_lacks():
    cfg = tiny_cfg(MODEL__ROI_HEADS__IN_FEATURES=["p2", "p3", "p9"])
    with pytest.raises(ValueError, match="no feature 'p9', only .*'p5'.*ROI_HEADS.IN_FEATURES"):
        RoIFeaturePooler(cfg, cfg.MODEL.ROI_BOX_HEAD, LEVELS)
