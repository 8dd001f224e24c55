"""The finest level pooled before its convolution, against Detectron2's FPN and RoIAlign."""

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import Conv2d, ROIAlign
from detectron2.modeling import FPN, ResNet, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import nn

from queryinst.modeling.backbone import build_fpn_backbone
from queryinst.modeling.pooler import RoIFeaturePooler, pool_levels
from queryinst.speedups import lazy_fpn
from queryinst.speedups.lazy_fpn import (
    LazyFPN,
    LazyLevel,
    LazyPooling,
    add_upsampled_,
    apply_to_model,
    pool_before_convolution,
)
from queryinst.speedups.roi_align_bag import BagPooling
from queryinst.testing import random_batch, tiny_cfg
from tests.speedups.lazy_levels import Counting, make_conv, make_level, make_map

NAN = math.nan
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


@torch.no_grad()
@pytest.mark.parametrize("max_taps", [2**24, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size, ratio", [((7, 7), 2), ((14, 14), 2), ((2, 3), 1), ((1, 1), 3)])
@pytest.mark.parametrize("rois", [ROIS, [], *([roi] for roi in ROIS)])
def test_pool_before_convolution_gives_what_RoIAlign_does_after_it(
    rois, size, ratio, bias, max_taps, monkeypatch
):
    monkeypatch.setattr(lazy_fpn, "MAX_TAPS", max_taps)
    conv, x = make_conv(bias), make_map()
    rois = torch.tensor(rois, dtype=torch.float64).view(-1, 5)
    align = ROIAlign(size, spatial_scale=0.25, sampling_ratio=ratio)
    ours = pool_before_convolution(x, conv, align, rois)
    finite = rois.nan_to_num(-1e9)  # torchvision's reads outside of the map at nan
    theirs = align(conv(x), finite).flatten(2).transpose(1, 2)
    assert ours.shape == (len(rois), size[0] * size[1], 6)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def make_pooling(otherwise):
    return LazyPooling(BagPooling(pool_levels) if otherwise == "bags" else pool_levels)


@torch.no_grad()
@pytest.mark.parametrize("otherwise", ["bags", "plain"])
@pytest.mark.parametrize("pixels_per_bin", [0.0, 1e9])
@pytest.mark.parametrize("rois", [[*ROIS[:6], (0, 0.0, 0.0, 500.0, 500.0)], ROIS[:1], []])
def test_LazyPooling_takes_either_way(rois, pixels_per_bin, otherwise, monkeypatch):
    monkeypatch.setattr(lazy_fpn, "PIXELS_PER_BIN", pixels_per_bin)
    conv = Counting(make_conv())
    level = LazyLevel.wait(make_map(), conv, 3)
    conv.weight, conv.bias = conv.conv.weight, conv.conv.bias
    coarse = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    coarse = coarse.contiguous(memory_format=torch.channels_last)
    rois = torch.tensor(rois, dtype=torch.float64).view(-1, 5)
    pooler = RoIFeaturePooler(
        output_size=7, scales=(1 / 4, 1 / 8), sampling_ratio=2, pooler_type="ROIAlignV2"
    )
    theirs = pooler([conv.conv(level.x), coarse], rois)
    pooler.pool_levels = make_pooling(otherwise)
    ours = pooler([level, coarse], rois)
    assert conv.calls == (pixels_per_bin == 1e9 and len(rois) > 0)
    assert level.num_poolings == (3 if conv.calls else 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    pooler([level, coarse], rois), level.compute(), level.compute()
    assert conv.calls == 1


@torch.no_grad()
@pytest.mark.parametrize("sampling_ratio, pooler_type", [(0, "ROIAlignV2"), (2, "ROIAlign")])
def test_LazyPooling_gives_a_pooler_that_needs_the_map_the_map(sampling_ratio, pooler_type):
    level = make_level()
    pooler = RoIFeaturePooler(
        output_size=3, scales=(0.25,), sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )
    rois = torch.tensor(ROIS[:2], dtype=torch.float64)
    expected = pooler([level.conv(level.x)], rois)
    pooler.pool_levels = make_pooling("plain")
    torch.testing.assert_close(pooler([level], rois), expected)
    assert level.convolved is not None


def make_fpn(fuse_type: str, top_block) -> FPN:
    torch.manual_seed(0)
    stages = [
        ResNet.make_stage(
            BottleneckBlock, 1, stride_per_block=[stride], in_channels=8 if stride == 1 else 8 * n,
            bottleneck_channels=4, out_channels=8 * n * min(2, stride), norm="FrozenBN",
        )
        for n, stride in ((1, 1), (1, 2), (2, 2), (4, 2))
    ]  # fmt: skip
    trunk = ResNet(
        BasicStem(3, 8, "FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"]
    )
    return FPN(trunk, ["res2", "res3", "res4", "res5"], 6, "", top_block, fuse_type).eval()


def make_lazy(fpn: nn.Module) -> None:
    cascade = SimpleNamespace(stages=[None], pooler=SimpleNamespace(pool_levels=pool_levels))
    apply_to_model(SimpleNamespace(backbone=fpn, cascade=cascade, mask_head=None))


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("top", [None, "p5", "res5"])
def test_LazyFPN_gives_detectron2s_levels(fuse_type, top):
    top_block = LastLevelMaxPool() if top == "p5" else None
    if top == "res5":
        top_block = LastLevelP6P7(64, 6)
    fpn = make_fpn(fuse_type, top_block)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = fpn(images)
        make_lazy(fpn)
        assert type(fpn) is LazyFPN
        levels = fpn(images)
    assert type(levels) is dict and list(levels) == list(expected)
    assert [name for name, x in levels.items() if isinstance(x, LazyLevel)] == ["p2"]
    for name, level in expected.items():
        torch.testing.assert_close(levels[name] + 0, level, rtol=1e-6, atol=1e-6)
    if top == "res5":
        assert {"p6", "p7"} < set(levels)


def test_LazyFPN_is_detectron2s_where_something_learns():
    fpn = make_fpn("sum", None)
    make_lazy(fpn)
    levels = fpn(torch.randn(1, 3, 64, 64))
    assert not any(isinstance(level, LazyLevel) for level in levels.values())
    sum(level.sum() for level in levels.values()).backward()
    convs = [m for m in fpn.modules() if isinstance(m, Conv2d) and m.weight.requires_grad]
    assert len(convs) > 8 and all(conv.weight.grad is not None for conv in convs)


class Finest(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        level = self.backbone(images)["p2"]
        assert not torch.jit.is_tracing() or type(level) is torch.Tensor
        return level


def test_LazyFPN_gives_callers_of_the_backbone_the_plain_levels():
    """All around the model: a user's own code, tracers, autocast."""
    backbone = build_fpn_backbone(tiny_cfg()).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            halves = backbone(images)["p2"]
    make_lazy(backbone)
    with torch.no_grad():
        level = backbone(images)["p2"]
        assert isinstance(level, LazyLevel)
        torch.testing.assert_close(level.relu(), expected["p2"].relu(), rtol=1e-6, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(images)["p2"]
            assert type(half) is torch.Tensor and torch.equal(half, halves)
        traced = torch.jit.trace(Finest(backbone), images)
        torch.testing.assert_close(traced(images), expected["p2"])
    assert type(backbone(images)["p2"]) is torch.Tensor  # gradients are on


@pytest.mark.parametrize("size", [(64, 96), (75, 61), (32, 32)])
@pytest.mark.parametrize("max_detections", [4, 100])
def test_apply_to_model_keeps_predictions(size, max_detections, monkeypatch):
    pooled_first = []
    original = lazy_fpn.pool_before_convolution
    monkeypatch.setattr(
        lazy_fpn,
        "pool_before_convolution",
        lambda *args: pooled_first.append(len(args[3])) or original(*args),
    )
    monkeypatch.setattr(lazy_fpn, "PIXELS_PER_BIN", 0.0)
    models = []
    for names in ((), ("lazy_fpn",)):
        cfg = tiny_cfg(TEST__DETECTIONS_PER_IMAGE=max_detections, MODEL__QUERYINST__SPEEDUPS=names)
        torch.manual_seed(0)
        models.append(build_model(cfg).double().eval())
        torch.nn.init.normal_(models[-1].initial_queries.boxes_cxcywh_norm, 0.3, 0.2)
    models[1].load_state_dict(models[0].state_dict())
    batch = random_batch((0, 0), *size)
    with torch.no_grad():
        expected, results = (model.inference(batch, do_postprocess=False) for model in models)
    assert sum(pooled_first) > 0
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.query_idx.equal(theirs.query_idx)
        for name in ("scores", "pred_masks"):
            torch.testing.assert_close(ours.get(name), theirs.get(name), rtol=1e-9, atol=1e-12)
        boxes = ours.pred_boxes.tensor, theirs.pred_boxes.tensor
        torch.testing.assert_close(*boxes, rtol=1e-9, atol=1e-9)


def test_apply_to_model_leaves_an_FPN_with_norms_as_it_is():
    overrides = {"MODEL__FPN__OUT_CHANNELS": 32, "MODEL__QUERYINST__EMBED_DIM": 32}
    backbone = build_fpn_backbone(tiny_cfg(MODEL__FPN__NORM="GN", **overrides))
    make_lazy(backbone)
    assert type(backbone) is FPN


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_add_upsampled_adds_in_place(memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 10).contiguous(memory_format=memory_format)
    coarser = torch.randn(2, 3, 3, 5).contiguous(memory_format=memory_format)
    expected = x + torch.nn.functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
    add_upsampled_(x, coarser)
    assert torch.equal(x, expected)
