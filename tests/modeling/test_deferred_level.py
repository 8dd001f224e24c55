"""The finest level pooled before its convolution: the same features for less work."""

import math

import pytest
import torch
from detectron2.layers import Conv2d, ROIAlign
from detectron2.modeling import FPN, build_model
from torch import nn

import queryinst.modeling.deferred_level as deferred_level
from queryinst.modeling.backbone import build_fpn_backbone, extract_features
from queryinst.modeling.deferred_level import DeferredLevel
from queryinst.modeling.fpn import Pyramid, defer_finest_level
from queryinst.modeling.pooler import RoIFeaturePooler
from queryinst.modeling.roi_align import BagROIAlign
from queryinst.testing import random_batch, tiny_cfg

NAN = math.nan
LEVELS = ["p2", "p3", "p4", "p5"]
# (image, x0, y0, x1, y1) on maps of 9 x 13 pixels of 4
ROIS = [
    (0, 3.0, 5.0, 30.0, 20.0),
    (1, 0.0, 0.0, 52.0, 36.0),  # all
    (1, -9.0, -7.0, 11.5, 12.0),  # across two borders
    (0, 40.0, 30.0, 60.0, 50.0),  # and the other two
    (0, -90.0, 10.0, -50.0, 20.0),  # outside
    (1, -3.9, -3.9, 0.2, 0.2),
    (0, 10.0, 10.0, 10.0, 10.0),  # a point
    (1, 20.0, 20.0, 10.0, 10.0),  # upside down
    (0, -1e9, -1e9, 1e9, 1e9),
    (0, NAN, 0.0, 5.0, 5.0),
]


def make_level(bias: bool = True) -> DeferredLevel:
    torch.manual_seed(0)
    conv = Conv2d(6, 6, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 6, 9, 13, dtype=torch.float64)
    return DeferredLevel(x.contiguous(memory_format=torch.channels_last), conv)


@torch.no_grad()
@pytest.mark.parametrize("max_taps", [2**24, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size, ratio", [((7, 7), 2), ((14, 14), 2), ((2, 3), 1), ((1, 1), 3)])
@pytest.mark.parametrize("rois", [ROIS, [], *([roi] for roi in ROIS)])
def test_pooling_first_gives_the_same(rois, size, ratio, bias, max_taps, monkeypatch):
    monkeypatch.setattr(deferred_level, "MAX_TAPS", max_taps)
    level = make_level(bias)
    rois = torch.tensor(rois, dtype=torch.float64).view(-1, 5)
    aligner = BagROIAlign(size, spatial_scale=0.25, sampling_ratio=ratio)
    found = level.pool(aligner, rois)
    convolved = torch.nn.functional.conv2d(level.x, level.conv.weight, level.conv.bias, padding=1)
    finite = rois.nan_to_num(-1e9)  # torchvision's reads outside of the map at nan
    expected = ROIAlign(size, 0.25, ratio).forward(convolved, finite)
    assert found.shape == (len(rois), aligner.output_size[0] * aligner.output_size[1], 6)
    expected = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_poolings", [1, 2])
def test_many_bins_are_not_worth_it(num_poolings):
    level = make_level()  # 234 pixels in two images
    level.num_poolings = num_poolings
    most = math.ceil(234 / (num_poolings * deferred_level.PIXELS_PER_BIN)) - 1
    assert level.is_worth_pooling(most) and level.is_worth_pooling(0)
    assert not level.is_worth_pooling(most + 1)
    assert level.convolved is level.convolved
    assert not level.is_worth_pooling(0)


@torch.no_grad()
@pytest.mark.parametrize("pixels_per_bin", [0.0, 1e9])
def test_the_pooler_takes_either_way(pixels_per_bin, monkeypatch):
    monkeypatch.setattr(deferred_level, "PIXELS_PER_BIN", pixels_per_bin)
    level = make_level()
    coarse = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    coarse = coarse.contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([*ROIS[:6], (0, 0.0, 0.0, 500.0, 500.0)], dtype=torch.float64)
    pooler = RoIFeaturePooler(
        output_size=7, scales=(1 / 4, 1 / 8), sampling_ratio=2, pooler_type="ROIAlignV2"
    )
    found = pooler([level, coarse], rois)
    assert ("convolved" in vars(level)) == (pixels_per_bin == 1e9)
    expected = pooler([level.convolved, coarse], rois)
    assert expected[-1].any() and expected[0].any()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("sampling_ratio, pooler_type", [(0, "ROIAlignV2"), (2, "ROIAlign")])
def test_a_pooler_that_needs_the_map_gets_it(sampling_ratio, pooler_type):
    level = make_level()
    pooler = RoIFeaturePooler(
        output_size=3, scales=(0.25,), sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )
    rois = torch.tensor(ROIS[:2], dtype=torch.float64)
    found = pooler([level], rois)
    torch.testing.assert_close(found, pooler([level.convolved], rois))


@pytest.mark.parametrize("size", [(64, 96), (75, 61), (32, 32)])
@pytest.mark.parametrize("max_detections", [4, 100])
def test_predictions_are_those_of_the_convolved_level(size, max_detections):
    cfg = tiny_cfg(TEST__DETECTIONS_PER_IMAGE=max_detections)
    torch.manual_seed(0)
    model = build_model(cfg).double().eval()
    torch.nn.init.normal_(model.initial_queries.boxes_cxcywh_norm, 0.3, 0.2)
    with torch.no_grad():
        found = model.inference(random_batch((0, 0), *size), do_postprocess=False)
        pyramid = model.backbone(torch.randn(1, 3, 64, 64, dtype=torch.float64))
        assert isinstance(pyramid.levels["p2"], DeferredLevel)
        model.backbone.__class__ = FPN
        model.backbone.output_convs[-1].__class__ = Conv2d
        expected = model.inference(random_batch((0, 0), *size), do_postprocess=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.query_idx.equal(theirs.query_idx)
        for name in ("scores", "pred_masks"):
            torch.testing.assert_close(ours.get(name), theirs.get(name), rtol=1e-9, atol=1e-12)
        boxes = ours.pred_boxes.tensor, theirs.pred_boxes.tensor
        torch.testing.assert_close(*boxes, rtol=1e-9, atol=1e-9)


def test_the_pyramid_is_read_like_a_dictionary():
    backbone = build_fpn_backbone(tiny_cfg()).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = backbone(images)  # gradients are on
    assert type(expected) is dict
    with torch.no_grad():
        pyramid = backbone(images)
    assert isinstance(pyramid, Pyramid) and len(pyramid) == len(expected)
    for name, level in pyramid.items():
        torch.testing.assert_close(level, expected[name])
    assert list(dict(pyramid)) == list(expected) and pyramid["p2"] is pyramid["p2"]


class Finest(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        levels = self.backbone(images)
        assert not torch.jit.is_tracing() or type(levels) is dict
        return levels["p2"]


def test_nothing_waits_where_it_must_not():
    backbone = build_fpn_backbone(tiny_cfg()).eval()
    images = torch.randn(1, 3, 64, 64)
    assert all(isinstance(x, torch.Tensor) for x in extract_features(backbone, images, LEVELS, 3))
    with torch.no_grad():
        first = extract_features(backbone, images, LEVELS, 3)[0]
        assert isinstance(first, DeferredLevel) and first.num_poolings == 3
        others = extract_features(backbone, images, LEVELS[1:], 3)
        assert all(isinstance(x, torch.Tensor) for x in others)
        with torch.autocast("cpu", torch.bfloat16):
            assert isinstance(backbone(images)["p2"], torch.Tensor)
            assert isinstance(extract_features(backbone, images, LEVELS, 3)[0], torch.Tensor)
        traced = torch.jit.trace(Finest(backbone), images)
        torch.testing.assert_close(traced(images), backbone(images)["p2"])


def test_a_pyramid_with_norms_stays_as_it_is():
    backbone = build_fpn_backbone(tiny_cfg(MODEL__FPN__NORM="GN", MODEL__FPN__OUT_CHANNELS=32,
                                           MODEL__QUERYINST__EMBED_DIM=32))  # fmt: skip
    defer_finest_level(backbone)
    assert type(backbone) is FPN
    with torch.no_grad():
        assert type(backbone(torch.randn(1, 3, 64, 64))) is dict
