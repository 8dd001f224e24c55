"""Convolutions on the CPU by matrix products, backward and, if they are large, forward.

With channels innermost, oneDNN takes up to five times as long for the gradient of a weight as for
the convolution itself. Here it is the sum of one product for each tap of the kernel, of two tables
of pixels of which the one is shifted; and RoIs read no more than a part of the finest maps, so
that most of the gradient may be zeros. Large convolutions of 3x3 go by Winograd's filtering, those
of few pixels with many weights, which oneDNN would reorder in each call, by one product.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import winograd
from .precision import runs_plainly

# Elsewhere oneDNN is as fast or faster: by up to 1.4 times on small maps of few channels.
TAPS = range(2, 10)
MIN_PRODUCTS = 1.5e9  # of numbers, in the whole convolution
MIN_PIXELS = 256  # of a map
MAX_PIXELS, MIN_WEIGHTS = 256, 2**20  # of a whole result that one product gives
# Share of pixels with a gradient, above which picking them out does not pay.
DENSE = 0.7  # where each tap is a product
DENSE_TILES = 0.45  # where Winograd's filtering is at hand
SAMPLE = 1024  # pixels that the share is guessed from
MAX_TABLE = 2**23  # floats of images at once: 32 MB

Pair = tuple[int, int]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """``F.conv2d``, faster on the CPU.

    Args:
        x: (N, C, H, W).
        weight: (O, C / groups, h, w).
    """
    may_be_own = (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.is_contiguous(memory_format=torch.channels_last)
        and groups == 1
        and tuple(dilation) == (1, 1)
        and runs_plainly(x.device)
    )
    if may_be_own and _goes_by_columns(x, weight, stride, padding):
        return convolve_by_columns(x, weight, bias, stride, padding)
    is_learned = torch.is_grad_enabled() and weight.requires_grad
    if may_be_own and (
        _goes_by_tiles(x, weight, stride, padding)
        or (is_learned and _goes_by_taps(x, weight, stride))
    ):
        return cast(Tensor, _Convolve.apply(x, weight, bias, tuple(stride), tuple(padding)))
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _goes_by_tiles(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> bool:
    """Whether Winograd's filtering is possible and gains."""
    return (
        weight.shape[2:] == (3, 3)
        and tuple(stride) == tuple(padding) == (1, 1)
        and winograd.is_worthwhile(x.shape, len(weight))
    )


def _goes_by_taps(x: Tensor, weight: Tensor, stride: Pair) -> bool:
    """Whether the weight's gradient gains as a product for each tap."""
    return (
        weight.shape[2] * weight.shape[3] in TAPS
        and x.shape[2] * x.shape[3] >= MIN_PIXELS
        and x[:, 0].numel() // (stride[0] * stride[1]) * weight.numel() >= MIN_PRODUCTS
    )


def _goes_by_columns(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> bool:
    """Whether a product with the pixels under the kernel, laid out side by side, gains."""
    height, width = _result_size(x, weight, stride, padding)
    return (
        weight.shape[2] * weight.shape[3] in TAPS
        and weight.numel() >= MIN_WEIGHTS
        and 0 < len(x) * height * width <= MAX_PIXELS
    )


def _result_size(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Pair:
    """Height, width."""
    height, width = (
        (x.shape[dim + 2] + 2 * padding[dim] - weight.shape[dim + 2]) // stride[dim] + 1
        for dim in range(2)
    )
    return height, width


def convolve_by_columns(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """``F.conv2d`` as one product, forward and backward.

    Args:
        x: (N, C, H, W).
        weight: (O, C, h, w).

    Returns:
        (N, O, H', W'), channels innermost.
    """
    columns = F.unfold(x, weight.shape[2:], padding=padding, stride=stride)  # (N, C*h*w, H'*W')
    products = F.linear(columns.transpose(1, 2).flatten(0, 1), weight.flatten(1), bias)
    height, width = _result_size(x, weight, stride, padding)
    return products.view(len(x), height, width, len(weight)).permute(0, 3, 1, 2)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        if not _goes_by_tiles(x, weight, stride, padding):
            return F.conv2d(x, weight, bias, stride, padding)
        return winograd.convolve_3x3(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        by_tiles = _goes_by_tiles(x, weight, ctx.stride, ctx.padding)
        grad_x = grad_weight = None
        if needs_weight:  # first: it needs more memory for a while
            if by_tiles and _share_with_gradient(grad.permute(0, 2, 3, 1)) > DENSE_TILES:
                grad_weight = winograd.weight_gradient(x, grad)
            else:
                grad_weight = weight_gradient(x, grad, weight.shape, ctx.stride, ctx.padding)
        if needs_x and by_tiles:
            grad_x = winograd.input_gradient(grad, weight)
        elif needs_x:
            grad_x = torch.ops.aten.convolution_backward(
                *(grad, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1),
                (True, False, False),
            )[0]
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None


def weight_gradient(
    x: Tensor, grad: Tensor, shape: torch.Size, stride: Pair, padding: Pair
) -> Tensor:
    """What the weight of a convolution gets.

    Args:
        x: (N, C, H, W), what it saw; fastest if channels lie innermost.
        grad: (N, O, H', W') of its result.
        shape: (O, C, h, w) of the weight.

    Returns:
        (O, C, h, w).
    """
    products = grad.new_zeros(shape[2], shape[3], *shape[:2])
    at_once = max(1, MAX_TABLE // max(x.shape[1:].numel(), grad.shape[1:].numel()))
    for part, part_grad in zip(x.split(at_once), grad.split(at_once)):
        pixels = part.permute(0, 2, 3, 1)
        pixels = _pad(pixels, (padding[0], padding[0]), (padding[1], padding[1]))
        _add_products(products, pixels, part_grad.permute(0, 2, 3, 1), stride)
    return products.permute(2, 3, 0, 1)


def _add_products(products: Tensor, pixels: Tensor, grads: Tensor, stride: Pair) -> None:
    """Add what some images give.

    Args:
        products: (h, w, O, C), of each tap.
        pixels: (n, H, W, C), padded.
        grads: (n, H', W', O).
    """
    height, width = products.shape[:2]
    table, row_length = pixels.flatten(0, 2), pixels.shape[2]
    shifts = [row * row_length + column for row in range(height) for column in range(width)]
    taps = list(zip(shifts, products.flatten(0, 1)))
    if stride == (1, 1) and _share_with_gradient(grads) > DENSE:
        # Laid out like the table, so that each tap sees a slice of it; the margins are zeros.
        grads = _pad(grads, (0, height - 1), (0, width - 1)).flatten(0, 2)
        for shift, product in taps:
            product.addmm_(grads[: len(grads) - shift].T, table[shift:])
        return
    firsts = _first_pixels(pixels.shape, grads.shape, stride)
    grads = grads.flatten(0, 2)
    used = grads.abs().amax(1).nonzero()[:, 0]
    firsts, grads = firsts[used], grads[used]
    for shift, product in taps:
        product.addmm_(grads.T, table[firsts + shift])


def _pad(x: Tensor, rows: Pair, columns: Pair) -> Tensor:
    """(N, H, W, C), with zeros around it."""
    return F.pad(x, (0, 0, *columns, *rows)) if any((*rows, *columns)) else x


def _share_with_gradient(grads: Tensor) -> float:
    """The share of pixels of (N, H, W, C) that have a gradient, by a sample of them."""
    table = grads.flatten(0, 2)
    sample = table[:: max(1, len(table) // SAMPLE)]
    return int(sample.abs().amax(1).count_nonzero()) / max(1, len(sample))


def _first_pixels(shape: torch.Size, shape_out: torch.Size, stride: Pair) -> Tensor:
    """The row of the table that the kernel's first tap meets, for each pixel of the result.

    Args:
        shape: (N, H, W, C) of the table, padded.
        shape_out: (N, H', W', O).

    Returns:
        (N*H'*W',) int64.
    """
    images, rows, columns = (torch.arange(length) for length in shape_out[:3])
    first_rows = images[:, None] * shape[1] + rows * stride[0]
    return (first_rows[..., None] * shape[2] + columns * stride[1]).flatten()
