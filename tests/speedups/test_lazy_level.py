"""A feature map whose convolution waits until something reads its values."""

import copy
import math

import numpy as np
import pytest
import torch
from detectron2.layers import ROIAlign
from torch import nn

from queryinst.speedups import lazy_fpn
from queryinst.speedups.lazy_fpn import LazyLevel
from tests.speedups.lazy_levels import Counting, make_conv, make_level, make_map


def counted_level() -> tuple[LazyLevel, Counting, torch.Tensor]:
    """And the convolved map."""
    conv, x = Counting(make_conv()), make_map()
    return LazyLevel.wait(x, conv, 1), conv, conv.conv(x)


@torch.no_grad()
def test_LazyLevel_does_not_convolve_for_metadata():
    level, conv, expected = counted_level()
    assert isinstance(level, LazyLevel)
    assert level.shape == level.size() == expected.shape and level.size(1) == 6
    assert level.ndim == level.dim() == 4 and level.numel() == expected.numel()
    assert level.dtype == torch.float64 and level.device.type == "cpu" and not level.is_cuda
    assert level.layout == expected.layout and not level.requires_grad
    assert level.is_contiguous(memory_format=torch.channels_last)
    assert conv.calls == 0


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


VALUES = {
    "clone": lambda x: x.clone(),
    "add": lambda x: x + 1,
    "added to": lambda x: 2 - x,
    "in a list": lambda x: torch.cat([torch.zeros(1, 6, 9, 13).double(), x]),
    "by keyword": lambda x: torch.add(input=x, other=x),
    "index": lambda x: x[0, :, 2:4],
    "indexed by a mask": lambda x: x[x > 0],
    "functional": lambda x: nn.functional.max_pool2d(x, 2),
    "module": lambda x: nn.Conv2d(6, 1, 1).double().requires_grad_(False)(x).shape,
    "reduction": lambda x: x.flatten(1).norm(dim=1),
    "view": lambda x: x.permute(0, 2, 3, 1),
    "dtype": lambda x: x.float(),
    "contiguous": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "list": lambda x: torch.tensor(x.tolist()),
    "iteration": lambda x: torch.stack(list(x)),
    "item": lambda x: x.sum().item(),
    "equal": lambda x: torch.equal(x, x + 0),
    "array": lambda x: torch.from_numpy(np.asarray(x)),
    "plain tensor": lambda x: x.as_subclass(torch.Tensor),
    "RoIAlign": lambda x: ROIAlign((2, 3), 1.0, 2)(x, torch.tensor([[1.0, 2, 1, 7, 6]]).double()),
    "own function": lambda x: Doubled.apply(x),
    "deepcopy": lambda x: copy.deepcopy(x),
}


@torch.no_grad()
@pytest.mark.parametrize("name", VALUES)
def test_LazyLevel_shows_the_convolved_map_to_each_operation(name):
    level, conv, expected = counted_level()
    for _ in range(2):
        ours, theirs = VALUES[name](level), VALUES[name](expected)
        assert not isinstance(ours, LazyLevel)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    assert conv.calls == 1


@torch.no_grad()
@torch.no_grad()
def test_LazyLevel_has_no_memory_that_code_in_C_could_misread():
    level, conv, expected = counted_level()
    with torch._C.DisableTorchFunctionSubclass():  # as an operator of an extension calls torch's
        torch.testing.assert_close(torch.relu(level), expected.relu(), rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="data pointer"):
            level.data_ptr()
    assert conv.calls == 1


def test_LazyLevel_changed_in_place_is_the_changed_convolved_map():
    level, conv, expected = counted_level()
    level.mul_(2)
    level[0] = 7.0
    expected.mul_(2)[0] = 7.0
    assert torch.equal(level + 0, expected) and conv.calls == 1


@torch.no_grad()
def test_LazyLevel_prints_and_saves_the_convolved_map(tmp_path):
    level, conv, expected = counted_level()
    assert repr(level) == repr(expected)
    torch.save(level, tmp_path / "level.pth")
    assert torch.equal(torch.load(tmp_path / "level.pth"), expected)


@torch.no_grad()
@pytest.mark.parametrize("num_images", [0, 1])
def test_LazyLevel_of_no_or_one_image(num_images):
    conv, x = make_conv(), make_map()[:num_images]
    level = LazyLevel.wait(x, conv, 1)
    assert torch.equal(level * 1, conv(x)) and level.pools_first(0) is False


def test_LazyLevel_is_computed_as_where_it_was_made():
    """Without gradients and in full precision, like the other levels."""
    with torch.no_grad():
        level, conv, expected = counted_level()
    with torch.autocast("cpu", torch.bfloat16):
        ours = level + 0
    assert torch.equal(ours, expected) and not ours.requires_grad and not level.requires_grad


@pytest.mark.parametrize("num_poolings", [1, 2])
def test_LazyLevel_pools_first_where_bins_are_few(num_poolings):
    level = make_level(num_poolings)  # 234 pixels in two images
    most = math.ceil(234 / (num_poolings * lazy_fpn.PIXELS_PER_BIN)) - 1
    assert level.pools_first(most) and level.pools_first(0)
    assert not level.pools_first(most + 1)
    level.compute()
    assert not level.pools_first(0)
