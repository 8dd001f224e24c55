"""An FPN whose finest level is convolved only where RoIs are pooled from it, if that is less work.

At inference its output convolution is the largest of all, on a map of which RoIs read a few places:
most are pooled from coarser levels. RoIAlign and convolution are both linear, so either may come
first: a pooled bin is nine poolings of the map before the convolution, one for each shift of the
kernel, times the kernel. Lateral maps are added in place, and the maps of ``bottom_up`` are freed
on the way.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ROIAlign
from detectron2.modeling import FPN
from torch import Tensor, nn

from ..modeling import QueryInst
from ..modeling.pooler import PoolLevels
from ..precision import full_precision
from .conditions import is_cpu_float, is_plain
from .roi_bags import find_bags, sample_axis, supports_bags
from .slots import replace_pool_levels
from .table import processor_kind

# Pooling a bin first takes as long as convolving this many pixels: with AVX-512, where convolutions
# are faster, 2.4 to 3.5 were measured, with AVX2 1.4 to 1.9.
PIXELS_PER_BIN = 3.6 if processor_kind() == "AVX512" else 2.0
MAX_TAPS = 2**24  # floats at once: 64 MB

# Reading these leaves the convolution for later.
_METADATA = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_contiguous}


def apply_to_model(model: QueryInst) -> None:
    """Let the finest level of `model` wait, if its backbone is an FPN as Detectron2 builds it."""
    fpn = model.backbone
    if type(fpn) is not FPN or not _can_wait(cast(list[Conv2d], fpn.output_convs)[-1]):
        return
    fpn.__class__ = LazyFPN
    cast(LazyFPN, fpn).num_poolings = len(model.cascade.stages) + (model.mask_head is not None)
    replace_pool_levels(model, LazyPooling)


def _can_wait(conv: nn.Module) -> bool:
    return (
        isinstance(conv, Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups) == ((1, 1), 1)
        and conv.in_channels == conv.out_channels
        and conv.norm is None
        and conv.activation is None
    )


class LazyLevel(Tensor):
    """The result of a 3x3 convolution that is computed when something reads its values.

    A tensor without memory of its own, so that nothing can read wrong values: any operation on it,
    of Python or C++, sees the convolved map.
    """

    x: Tensor  # the map before the convolution, of the same shape
    conv: Callable[[Tensor], Tensor]
    num_poolings: int  # to be expected
    convolved: Tensor | None

    @classmethod
    def wait(cls, x: Tensor, conv: Callable[[Tensor], Tensor], num_poolings: int) -> "LazyLevel":
        """Return what ``conv(x)`` would be.

        Args:
            x: (N, C, H, W).
            conv: `_can_wait`.
        """
        level = Tensor._make_wrapper_subclass(
            cls, x.shape, strides=x.stride(), dtype=x.dtype, device=x.device
        )
        torch._C._set_throw_on_mutable_data_ptr(level)
        level.x, level.conv, level.num_poolings, level.convolved = x, conv, num_poolings, None
        return level

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **(kwargs or {}))
            return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = torch.utils._pytree.tree_map_only(
            LazyLevel, LazyLevel.compute, (args, kwargs or {})
        )
        return func(*args, **kwargs)

    def as_subclass(self, cls):
        """Return the convolved map as `cls`; PyTorch asks nobody for this one."""
        return self.compute().as_subclass(cls)

    def compute(self) -> Tensor:
        """Return the convolved map (N, C, H, W)."""
        if self.convolved is None:  # as where the level was made, wherever it is read
            with torch.no_grad(), full_precision(self.device):
                self.convolved = self.conv(self.x)
        return self.convolved

    def pools_first(self, num_bins: int) -> bool:
        """Whether it is less work to pool first if `num_poolings` poolings have `num_bins` each."""
        if self.convolved is not None:
            return False
        num_pixels = self.shape[0] * self.shape[2] * self.shape[3]
        return num_bins * self.num_poolings * PIXELS_PER_BIN < num_pixels


class LazyFPN(FPN):
    """Detectron2's FPN with a LazyLevel as the finest, on the CPU where nothing is learned."""

    num_poolings: int

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As FPN's."""
        if torch.is_grad_enabled() or not is_plain(x.device) or not is_cpu_float(x):
            return super().forward(x)
        features = dict(self.bottom_up(x))
        top_feature = None
        if self.top_block is not None:
            top_feature = features.get(self.top_block.in_feature)
        levels: list[Tensor] = []
        merged: Tensor | None = None
        for name, lateral, output in zip(
            self.in_features[::-1],
            cast(list[nn.Module], self.lateral_convs),
            cast(list[nn.Module], self.output_convs),
        ):
            merged = self._merge(lateral(features.pop(name)), merged)
            is_finest = name == self.in_features[0]
            wait = LazyLevel.wait(merged, output, self.num_poolings) if is_finest else None
            levels.insert(0, output(merged) if wait is None else wait)
        if self.top_block is not None:
            if top_feature is None:
                top_feature = levels[self._out_features.index(self.top_block.in_feature)]
            levels.extend(self.top_block(top_feature))
        assert len(self._out_features) == len(levels)
        return dict(zip(self._out_features, levels))

    def _merge(self, lateral: Tensor, coarser: Tensor | None) -> Tensor:
        """Return what an output convolution sees; `lateral` is changed in place."""
        if coarser is not None:
            add_upsampled_(lateral, coarser)
            if self._fuse_type == "avg":
                lateral /= 2
        return lateral


def add_upsampled_(x: Tensor, coarser: Tensor) -> None:
    """Add to each pixel of (N, C, 2H, 2W) the one of (N, C, H, W) that it lies in, in place."""
    height, width = coarser.shape[2:]
    blocks = x.unflatten(3, (width, 2)).unflatten(2, (height, 2))
    blocks += coarser[:, :, :, None, :, None]


class LazyPooling:
    """Replaces `pool_levels` for a LazyLevel as the finest."""

    def __init__(self, otherwise: PoolLevels):
        self.otherwise = otherwise

    def __call__(
        self, level_poolers: nn.ModuleList, features: list[Tensor], rois: Tensor, levels: Tensor
    ) -> Tensor:
        """As `pool_levels`: the finest level before its convolution or after, as is less work."""
        finest, align = features[0], level_poolers[0]
        if not isinstance(finest, LazyLevel):
            return self.otherwise(level_poolers, features, rois, levels)
        rows = torch.nonzero(levels == 0)[:, 0]
        height, width = cast(ROIAlign, align).output_size
        x = finest.x
        if not (supports_bags(align, x) and finest.pools_first(len(rows) * height * width)):
            return self.otherwise(level_poolers, [finest.compute(), *features[1:]], rois, levels)
        finest.num_poolings = max(1, finest.num_poolings - 1)
        others = levels.masked_fill(levels == 0, -1)  # of no level: zeros
        pooled = self.otherwise(level_poolers, [x, *features[1:]], rois, others)
        conv = cast(Conv2d, finest.conv)
        bins = pool_before_convolution(x, conv, cast(ROIAlign, align), rois[rows].to(x.dtype))
        pooled.permute(0, 2, 3, 1)[rows] = bins.unflatten(1, (height, width))
        return pooled


def pool_before_convolution(x: Tensor, conv: Conv2d, align: ROIAlign, rois: Tensor) -> Tensor:
    """Return what `align` gives of the convolved map, without convolving it.

    Args:
        x: (N, C, H, W).
        rois: (R, 5).

    Returns:
        (R, B, C) for its B bins.
    """
    kernel = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (9C, C): shifts outermost
    height, width = align.output_size
    at_once = max(1, MAX_TAPS // (height * width * len(kernel)))
    pooled = [_pool(x, conv, kernel, align, part) for part in rois.split(at_once)]
    return torch.cat(pooled).view(len(rois), height * width, kernel.shape[1])


def _pool(x: Tensor, conv: Conv2d, kernel: Tensor, align: ROIAlign, rois: Tensor) -> Tensor:
    """(R*B, C)."""
    _, pixels, weights = find_bags(align, x.shape, rois, rois[:, 0], _shifted_axis)
    pixels, weights = _bins_outermost(align, pixels), _bins_outermost(align, weights)
    table = x.permute(0, 2, 3, 1).flatten(0, 2)  # (N*H*W, C)
    taps = F.embedding_bag(
        pixels.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1)
    )
    bins = taps.view(-1, len(kernel)) @ kernel
    if conv.bias is not None:  # a sample outside of the map takes no part of the bias
        bins += weights[:, 4].sum(1, keepdim=True) * conv.bias
    return bins


def _bins_outermost(align: ROIAlign, x: Tensor) -> Tensor:
    """(R*3h*3w, P) -> (R*h*w, 9, P)."""
    height, width = align.output_size
    x = x.view(-1, height, 3, width, 3, x.shape[1])
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _shifted_axis(*args: Any) -> tuple[Tensor, Tensor]:
    """As `sample_axis` of a map shifted by -1, 0 and 1 pixels, with zeros from outside."""
    indices, weights = sample_axis(*args)
    length = args[3]
    shifts = torch.arange(-1, 2, dtype=torch.int32)[:, None]
    indices = indices[:, :, None] + shifts  # (R, bins, 3, neighbours)
    weights = weights[:, :, None] * ((indices >= 0) & (indices < length))
    return indices.clamp(0, length - 1).flatten(1, 2), weights.flatten(1, 2)
