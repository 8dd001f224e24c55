"""The feature pyramid where nobody learns, against Detectron2's."""

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock

from queryinst.modeling.fpn import add_upsampled_, defer_finest_level


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsampled_maps_are_added_in_place(memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 10).contiguous(memory_format=memory_format)
    coarser = torch.randn(2, 3, 3, 5).contiguous(memory_format=memory_format)
    expected = x + torch.nn.functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
    assert add_upsampled_(x, coarser) is x
    assert torch.equal(x, expected)


def build(fuse_type: str, top_block) -> FPN:
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


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("top", [None, "p5", "res5"])
def test_the_levels_are_detectron2s(fuse_type, top):
    top_block = LastLevelMaxPool() if top == "p5" else None
    if top == "res5":
        top_block = LastLevelP6P7(64, 6)
    fpn = build(fuse_type, top_block)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = fpn(images)
        defer_finest_level(fpn)
        assert type(fpn) is not FPN
        found = fpn(images)
    assert list(found) == list(expected)
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level, rtol=1e-6, atol=1e-6)
    if top == "res5":
        assert {"p6", "p7"} < set(found)


def test_the_trunks_maps_stay_with_who_learns():
    """Gradients run through Detectron2's own forward pass."""
    fpn = build("sum", None)
    defer_finest_level(fpn)
    levels = fpn(torch.randn(1, 3, 64, 64))
    assert type(levels) is dict
    sum(level.sum() for level in levels.values()).backward()
    convs = [m for m in fpn.modules() if isinstance(m, Conv2d) and m.weight.requires_grad]
    assert len(convs) > 8 and all(conv.weight.grad is not None for conv in convs)
