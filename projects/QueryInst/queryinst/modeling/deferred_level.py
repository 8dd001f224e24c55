"""The finest level of the pyramid, whose output convolution may wait until RoIs are pooled.

At inference it is the largest convolution of all, on a map of which RoIs read a few places: most
are pooled from coarser levels. RoIAlign and convolution are both linear, so that either may come
first: a pooled bin is nine poolings of the map before the convolution, one for each shift of the
kernel, times the kernel.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor

from .convolution import convolve
from .folding import FoldingConv2d
from .precision import runs_plainly
from .roi_align import BagROIAlign

# Pooling a bin first takes as long as convolving this many pixels: 1.4 to 1.9 were measured.
PIXELS_PER_BIN = 2.0
MAX_TAPS = 2**24  # floats at once: 64 MB


class DeferredLevel:
    """A feature map (N, C, H, W) that is still to be convolved."""

    def __init__(self, x: Tensor, conv: Conv2d):
        """
        Args:
            x: (N, C, H, W), before the convolution.
            conv: 3x3, padded with zeros, without a norm.
        """
        self.x, self.conv = x, conv
        self.num_poolings = 1  # to be expected; who knows better sets it

    @cached_property
    def convolved(self) -> Tensor:
        """(N, C, H, W)."""
        return convolve(self.x, self.conv.weight, self.conv.bias, (1, 1), (1, 1), (1, 1), 1)

    def is_worth_pooling(self, num_bins: int) -> bool:
        """Whether pooling first is the shorter way if `num_poolings` poolings have `num_bins`."""
        if "convolved" in self.__dict__:
            return False
        num_pixels = self.x.shape[0] * self.x.shape[2] * self.x.shape[3]
        return num_bins * self.num_poolings * PIXELS_PER_BIN < num_pixels

    def pool(self, aligner: BagROIAlign, rois: Tensor) -> Tensor:
        """What `aligner` gives of the convolved map, without convolving it.

        Args:
            rois: (R, 5).

        Returns:
            (R, B, C) for its B bins.
        """
        self.num_poolings = max(1, self.num_poolings - 1)
        shifted = _ShiftedBins(aligner)
        height, width = aligner.output_size
        at_once = max(1, MAX_TAPS // (height * width * len(self._kernel)))
        pooled = [self._pool(shifted, part) for part in rois.split(at_once)]
        return torch.cat(pooled).view(len(rois), height * width, self._kernel.shape[1])

    @cached_property
    def _kernel(self) -> Tensor:
        """(9C, C): shifts outermost."""
        return self.conv.weight.permute(2, 3, 1, 0).flatten(0, 2)

    def _pool(self, shifted: "_ShiftedBins", rois: Tensor) -> Tensor:
        """(R*B, C)."""
        _, pixels, weights = shifted.bags(self.x, rois, rois[:, 0])
        pixels, weights = shifted.bins_outermost(pixels), shifted.bins_outermost(weights)
        table = self.x.permute(0, 2, 3, 1).flatten(0, 2)  # (N*H*W, C)
        taps = F.embedding_bag(
            pixels.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1)
        )
        bins = taps.view(-1, len(self._kernel)) @ self._kernel
        if self.conv.bias is not None:  # a sample outside of the map takes no part of the bias
            bins += weights[:, 4].sum(1, keepdim=True) * self.conv.bias
        return bins


class _ShiftedBins(BagROIAlign):
    """RoIAlign of a map that is shifted by a pixel to and fro along both axes; zeros come in."""

    def __init__(self, aligner: BagROIAlign):
        height, width = aligner.output_size
        size = (3 * height, 3 * width)
        super().__init__(size, aligner.spatial_scale, aligner.sampling_ratio, aligner.aligned)

    def bins_outermost(self, x: Tensor) -> Tensor:
        """(R*3h*3w, P) -> (R*h*w, 9, P)."""
        height, width = self.output_size
        x = x.view(-1, height // 3, 3, width // 3, 3, x.shape[1])
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _axis(self, start: Tensor, end: Tensor, length: int, bins: int) -> tuple[Tensor, Tensor]:
        indices, weights = super()._axis(start, end, length, bins // 3)
        indices = (
            indices[:, :, None] + torch.arange(-1, 2, dtype=torch.int32)[:, None]
        )  # (R, bins, 3, neighbours)
        is_inside = (indices >= 0) & (indices < length)
        weights = weights[:, :, None] * is_inside
        return indices.clamp(0, length - 1).flatten(1, 2), weights.flatten(1, 2)


# Of the feature maps (N, C, H, W) that RoIs are pooled from, the first may be deferred.
Level = Tensor | DeferredLevel


class DeferringConv2d(FoldingConv2d):
    """A convolution that may leave its work to who pools from the result."""

    def forward(self, x: Tensor) -> Level:  # type: ignore[override]
        """Convolved, or a promise of it: on the CPU in float32 or float64, where no one learns."""
        may_wait = (
            not torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and runs_plainly(x.device)
        )
        return DeferredLevel(x, self) if may_wait else super().forward(x)
