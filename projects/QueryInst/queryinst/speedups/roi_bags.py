"""RoIAlign as weighted sums of pixels, whose gradients meet in one buffer per feature map.

No speed-up by itself: `roi_align_bag` and `lazy_fpn` use it. A pooled bin is a weighted sum of
pixels: sampling_ratio^2 samples of four bilinear neighbours each. With the features as a table of
one row per pixel that is ``F.embedding_bag``. The backward pass of a pooling is a sum over bins for
each pixel. Done call by call, each call would fill a gradient of the whole map with zeros and add
it to the last one's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .conditions import is_cpu_float, is_traced


class Bags(NamedTuple):
    """What some RoIs take from one feature map (N, C, H, W); B bags of P pixels a RoI."""

    rows: Tensor  # (r,) int64, which of all R RoIs these are
    pixels: Tensor  # (r*B, P) int32, rows of the map as a table (N*H*W, C)
    weights: Tensor  # (r*B, P)


def supports_bags(pooler: nn.Module, features: Tensor) -> bool:
    """Whether `pooler` is a RoIAlign that bags can replace on these features (N, C, H, W)."""
    return (
        isinstance(pooler, ROIAlign)
        and pooler.aligned
        and pooler.sampling_ratio > 0
        and is_cpu_float(features)
        and features.numel() > 0
        and not is_traced()
    )


Axis = Callable[[ROIAlign, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


@torch.no_grad()
def find_bags(
    align: ROIAlign, shape: torch.Size, rois: Tensor, rows: Tensor, axis: Axis | None = None
) -> Bags:
    """Find what each bin of `align` takes from a feature map.

    Args:
        shape: (N, C, H, W).
        rois: (r, 5) index of the image in the batch, then XYXY in pixels, in the map's dtype.
        rows: (r,) their rows in the result of `pool_bags`.
        axis: another `sample_axis`.
    """
    axis = axis or sample_axis
    _, _, height, width = shape
    bins_y, bins_x = align.output_size
    y, weight_y = axis(align, rois[:, 2], rois[:, 4], height, bins_y)
    x, weight_x = axis(align, rois[:, 1], rois[:, 3], width, bins_x)
    first = rois[:, 0].int()[:, None, None] * height  # the image's first row of pixels
    pixels = ((first + y) * width)[:, :, None, :, None] + x[:, None, :, None, :]
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    num_bins = len(rois) * y.shape[1] * x.shape[1]
    per_bin = y.shape[2] * x.shape[2]
    return Bags(rows, pixels.reshape(num_bins, per_bin), weights.reshape(num_bins, per_bin))


def sample_axis(
    align: ROIAlign, start: Tensor, end: Tensor, length: int, bins: int
) -> tuple[Tensor, Tensor]:
    """Find the neighbours of each bin's samples along one axis.

    Args:
        start, end: (R,) in pixels of the image.
        length: pixels of the features.
        bins: of a RoI.

    Returns:
        Indices, int32, and weights, each (R, bins, 2 * sampling_ratio). A sample that lies more
        than a pixel outside weighs nothing; others outside take the border.
    """
    ratio = align.sampling_ratio
    start, end = start * align.spatial_scale - 0.5, end * align.spatial_scale - 0.5
    steps = torch.arange(bins * ratio, dtype=start.dtype) + 0.5
    at = start[:, None] + steps * ((end - start) / (bins * ratio))[:, None]  # (R, bins*ratio)
    # NaN, of RoIs without a defined size, is not inside either.
    inside = ((at >= -1) & (at <= length)).to(at)
    at = at.nan_to_num(0.0).clamp(0, length - 1)
    low = at.floor()
    fraction = at - low
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / ratio
    low = low.int()
    indices = torch.stack([low, (low + 1).clamp(max=length - 1)], dim=-1)
    return (
        indices.unflatten(1, (bins, ratio)).flatten(2),
        weights.unflatten(1, (bins, ratio)).flatten(2),
    )


def pool_bags(features: list[Tensor], bags: list[Bags], num_rois: int, num_bins: int) -> Tensor:
    """Sum weighted pixels.

    Args:
        features: one (N, C, H, W) per level on the CPU; fastest if channels lie innermost.
        bags: one per level; a RoI that is in none gets zeros.
        num_rois: R.
        num_bins: B.

    Returns:
        (R, B, C). Gradients go to the features, not to the weights, and cannot be differentiated
        again.
    """
    indices = [tensor for level in bags for tensor in level]
    shape = (num_rois, num_bins)
    return _PoolBags.apply(shape, len(features), *features, *indices)


def collect_gradients(features: Tensor) -> Tensor:
    """The same features, in whose backward pass all their poolings are summed up at once.

    The gradient that hooks see at the returned tensor, or `torch.autograd.grad` finds there, lacks
    the poolings; at `features` it is whole.
    """
    if torch.is_grad_enabled() and features.requires_grad:
        return _CollectGradients.apply(features)
    return features


class _Part(NamedTuple):
    """The gradient of one pooling, and which bins of it the map has a share in."""

    grad: Tensor  # (R, B, C)
    bags: Bags


class _CollectGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shape = features.shape
        # By backward pass: one that failed on its way must leave nothing to the next.
        ctx.collected = {}
        return features.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        parts = ctx.collected.pop(torch._C._current_graph_task_id(), [])
        if not parts:
            return grad
        pooled = _sum_by_pixel(parts, ctx.shape)
        return pooled if grad is None else grad + pooled


class _PoolBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: tuple[int, int], num_levels: int, *tensors: Tensor) -> Tensor:
        features, indices = tensors[:num_levels], tensors[num_levels:]
        bags = _by_level(indices)
        ctx.save_for_backward(*indices)
        ctx.shapes = [x.shape for x in features]
        ctx.collectors = [getattr(x.grad_fn, "collected", None) for x in features]
        channels = features[0].shape[1]
        is_whole = sum(len(level.rows) for level in bags) == shape[0]
        make = features[0].new_empty if is_whole else features[0].new_zeros
        pooled = make(*shape, channels)
        for x, (rows, pixels, weights) in zip(features, bags):
            table = x.permute(0, 2, 3, 1).flatten(0, 2)  # (N*H*W, C)
            bins = F.embedding_bag(pixels, table, mode="sum", per_sample_weights=weights)
            pooled[rows] = bins.view(len(rows), *pooled.shape[1:])
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        indices = ctx.saved_tensors
        grads: list[Tensor | None] = []
        task = torch._C._current_graph_task_id()
        for level, bags in enumerate(_by_level(indices)):
            part = _Part(grad, bags)
            collected = ctx.collectors[level]
            if not ctx.needs_input_grad[2 + level]:
                grads.append(None)
            elif collected is None:
                grads.append(_sum_by_pixel([part], ctx.shapes[level]))
            else:
                collected.setdefault(task, []).append(part)
                grads.append(None)
        return (None, None, *grads, *(None for _ in indices))


def _by_level(indices: tuple[Tensor, ...]) -> list[Bags]:
    return [Bags(*indices[i : i + 3]) for i in range(0, len(indices), 3)]


def _sum_by_pixel(parts: list[_Part], shape: torch.Size) -> Tensor:
    """The bags the other way round: what each pixel gets from the bins that it is part of.

    Args:
        shape: (N, C, H, W) of the map.

    Returns:
        (N, C, H, W), channels innermost.
    """
    num_images, channels, height, width = shape
    counts = [len(bags.pixels) for _, bags in parts]
    grads = parts[0].grad.new_empty(sum(counts), channels)  # (bins, C)
    for (grad, bags), part in zip(parts, grads.split(counts)):
        torch.index_select(grad, 0, bags.rows, out=part.view(len(bags.rows), *grad.shape[1:]))
    pixels = torch.cat([bags.pixels.flatten() for _, bags in parts])
    weights = torch.cat([bags.weights.flatten() for _, bags in parts])
    if len(grads) == 0:
        return grads.new_zeros(shape).contiguous(memory_format=torch.channels_last)
    sizes = [np.full(len(bags.pixels), bags.pixels.shape[1]) for _, bags in parts]
    ends = np.concatenate([[0], *sizes]).cumsum()
    num_pixels = num_images * height * width
    # A counting sort, by far faster than sorting the pixels' numbers.
    by_bin = csr_matrix((weights.numpy(), pixels.numpy(), ends), shape=(len(grads), num_pixels))
    by_pixel = by_bin.tocsc()
    summed = F.embedding_bag(
        torch.from_numpy(by_pixel.indices),
        grads,
        torch.from_numpy(by_pixel.indptr),
        mode="sum",
        per_sample_weights=torch.from_numpy(by_pixel.data),
        include_last_offset=True,
    )
    return summed.view(num_images, height, width, channels).permute(0, 3, 1, 2)
