"""A small map, its convolution, and the level that waits for it."""

import torch
from detectron2.layers import Conv2d
from torch import nn

from queryinst.speedups.lazy_fpn import LazyLevel


class Counting(nn.Module):
    """Counts what a convolution is asked for."""

    def __init__(self, conv: Conv2d):
        super().__init__()
        self.conv, self.calls = conv, 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


def make_conv(bias: bool = True) -> Conv2d:
    torch.manual_seed(0)
    return Conv2d(6, 6, 3, padding=1, bias=bias).double()


def make_map() -> torch.Tensor:
    x = torch.randn(2, 6, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def make_level(num_poolings: int = 1) -> LazyLevel:
    conv = make_conv()
    return LazyLevel.wait(make_map(), conv, num_poolings)
