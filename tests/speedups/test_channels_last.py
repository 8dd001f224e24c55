"""Where channels lie in memory, with and without the speed-up."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from queryinst.speedups.conditions import is_channels_last
from queryinst.testing import tiny_cfg


def formats(names: tuple, images: torch.Tensor, device: str = "cpu") -> list[bool]:
    """Whether the image, as the trunk sees it, and each level are channels-last."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=names)).to(device)
    seen = []
    model.backbone.bottom_up.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    seen += model.backbone(images.to(device)).values()
    return [is_channels_last(x) for x in seen]


@pytest.mark.parametrize("num_images", [1, 2])
def test_apply_to_model_turns_the_image_and_every_level(num_images):
    images = torch.randn(num_images, 3, 64, 96)
    assert formats(("channels_last",), images) == [True] * 6  # p2 to p6
    assert formats((), images) == [False] * 6


def test_apply_to_model_leaves_other_devices_alone():
    assert formats(("channels_last",), torch.randn(1, 3, 64, 96), "meta") == [False] * 6


def test_apply_to_model_leaves_what_is_channels_last_uncopied():
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("channels_last",)))
    images = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    seen = []
    model.backbone.bottom_up.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.backbone(images)
    assert seen[0] is images


def test_apply_to_model_takes_images_by_keyword():
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("channels_last",)))
    images = torch.randn(1, 3, 64, 64)
    ours, expected = model.backbone(x=images), model.backbone(images)
    for name, level in expected.items():
        torch.testing.assert_close(ours[name], level)


class Finest(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return self.backbone(images)["p2"]


@pytest.mark.filterwarnings("ignore")  # of tracing
def test_apply_to_model_leaves_tracers_alone():
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("channels_last",)))
    traced = torch.jit.trace(Finest(model.backbone), torch.randn(1, 3, 64, 64), check_trace=False)
    assert not is_channels_last(traced(torch.randn(1, 3, 64, 64)))
