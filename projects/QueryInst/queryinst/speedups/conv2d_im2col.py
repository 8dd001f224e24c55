"""Convolutions of few pixels with many weights as one matrix product (im2col).

oneDNN would bring the weights into its own order in each call.
"""

import torch.nn.functional as F
from torch import Tensor

from ..modeling import QueryInst
from .conv2d import Conv2dWay, Geometry, speed_up_convolutions

TAPS = range(2, 10)
MAX_PIXELS, MIN_WEIGHTS = 256, 2**20  # of the whole result


class Im2col(Conv2dWay):
    """Convolutions of several taps, forward and backward."""

    def whole(self, x, weight, bias, at):
        return conv2d_im2col(x, weight, bias, at) if use_im2col(x, weight, at) else None


def apply_to_model(model: QueryInst) -> None:
    """Let the convolutions of `model` use it where it gains."""
    speed_up_convolutions(model, way=Im2col())


def use_im2col(x: Tensor, weight: Tensor, at: Geometry) -> bool:
    """Whether one product gains."""
    height, width = _result_size(x, weight, at)
    return (
        weight.shape[2] * weight.shape[3] in TAPS
        and weight.numel() >= MIN_WEIGHTS
        and 0 < len(x) * height * width <= MAX_PIXELS
    )


def conv2d_im2col(x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry) -> Tensor:
    """Return ``F.conv2d`` as one product, forward and backward.

    Args:
        x: (N, C, H, W).
        weight: (O, C, h, w).

    Returns:
        (N, O, H', W'), channels innermost.
    """
    columns = F.unfold(x, weight.shape[2:], padding=at.padding, stride=at.stride)  # (N, C*h*w, P)
    products = F.linear(columns.transpose(1, 2).flatten(0, 1), weight.flatten(1), bias)
    height, width = _result_size(x, weight, at)
    return products.view(len(x), height, width, len(weight)).permute(0, 3, 1, 2)


def _result_size(x: Tensor, weight: Tensor, at: Geometry) -> tuple[int, int]:
    """Return height, width."""
    height, width = (
        (x.shape[dim + 2] + 2 * at.padding[dim] - weight.shape[dim + 2]) // at.stride[dim] + 1
        for dim in range(2)
    )
    return height, width
