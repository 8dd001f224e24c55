"""Weight gradients of large convolutions as matrix products.

With channels innermost, oneDNN takes up to five times as long for the gradient of a weight as for
the convolution itself. Here it is the sum of one product for each tap of the kernel, of two tables
of pixels one of which is shifted. RoIs read only a part of the finest maps, so most of the
gradient may be zeros, whose pixels are left out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import QueryInst
from .conv2d import Conv2dWay, Geometry, Pair, share_of_rows, speed_up_convolutions

# Elsewhere oneDNN is as fast or faster: by up to 1.4 times on small maps of few channels.
TAPS = range(2, 10)
MIN_PRODUCTS = 1.5e9  # of numbers, in the whole convolution
MIN_PIXELS = 256  # of a map
DENSE = 0.7  # share of pixels with a gradient, above which picking them out does not pay
MAX_TABLE = 2**23  # floats of images at once: 32 MB


class WeightGradByProducts(Conv2dWay):
    """Convolutions of several taps, where they are large."""

    def weight_grad(self, grad, x, weight, at):
        if not self.supports_backward(x, weight, at):
            return None
        return weight_gradient(x, grad, weight.shape, *at)

    def supports_backward(self, x: Tensor, weight: Tensor, at: Geometry) -> bool:
        """Whether the weight's gradient gains as a product for each tap."""
        return (
            weight.requires_grad
            and weight.shape[2] * weight.shape[3] in TAPS
            and x.shape[2] * x.shape[3] >= MIN_PIXELS
            and x[:, 0].numel() // (at.stride[0] * at.stride[1]) * weight.numel() >= MIN_PRODUCTS
        )


def apply_to_model(model: QueryInst) -> None:
    """Let the convolutions of `model` use it where it gains."""
    speed_up_convolutions(model, way=WeightGradByProducts())


def weight_gradient(
    x: Tensor, grad: Tensor, shape: torch.Size, stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient of a convolution's weight.

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
    if stride == (1, 1) and share_of_rows(grads.flatten(0, 2)) > DENSE:
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
