"""A convolution that other ways of computing it, or parts of it, can be added to.

No speed-up by itself: `fold_norms`, `winograd`, `conv2d_im2col`, `conv2d_weight_grad` and
`optimize` use it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..precision import at_least_fp32
from .conditions import is_channels_last, is_cpu_float, is_plain

Pair = tuple[int, int]
SAMPLE = 1024  # pixels that a share is estimated from

# By exact type: a subclass may compute something else. In eval mode these compute the same.
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


class Geometry(NamedTuple):
    """How a convolution without groups and dilation meets its input."""

    stride: Pair
    padding: Pair


class Conv2dWay:
    """Another way to compute a convolution. Each method may return None: not supported or slower.

    Tensors are float32 or float64 on the CPU, x and the gradient of (N, C, H, W) with channels
    innermost in memory.
    """

    def whole(self, x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry) -> Tensor | None:
        """Return the convolution, differentiable by autograd."""
        return None

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry
    ) -> Tensor | None:
        """Return the convolution."""
        return None

    def input_grad(self, grad: Tensor, x: Tensor, weight: Tensor, at: Geometry) -> Tensor | None:
        """Return the gradient of x (N, C, H, W), for the gradient of the result (N, O, H', W')."""
        return None

    def weight_grad(self, grad: Tensor, x: Tensor, weight: Tensor, at: Geometry) -> Tensor | None:
        """Return the gradient of weight (O, C, h, w)."""
        return None

    def supports_backward(self, x: Tensor, weight: Tensor, at: Geometry) -> bool:
        """Whether `input_grad` or `weight_grad` may return a tensor for such a convolution."""
        return False


def own_parameters(conv: Conv2d) -> tuple[Tensor, Tensor | None, nn.Module | None]:
    """Return weight and bias of a convolution, and the norm to run on its result."""
    return conv.weight, conv.bias, conv.norm


def is_static(norm: nn.Module | None) -> bool:
    """Whether `norm` is a batch norm that uses running statistics in its present mode."""
    if norm is None or type(norm) is FrozenBatchNorm2d:
        return norm is not None
    return type(norm) in _BATCH_NORMS and not norm.training and norm.running_mean is not None


def folded(conv: Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one convolution that equals `conv` and its static norm."""
    norm = conv.norm
    scale = (at_least_fp32(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    bias = -mean * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    weight = conv.weight * scale[:, None, None, None]
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


class FastConv2d(Conv2d):
    """Detectron2's Conv2d with other ways to compute it; without any it computes the same.

    Attributes:
        ways: asked in this order.
        parameters_to_use: called as `own_parameters`.
    """

    ways: tuple[Conv2dWay, ...]
    parameters_to_use: Callable[[Conv2d], tuple[Tensor, Tensor | None, nn.Module | None]]

    def forward(self, x: Tensor) -> Tensor:
        """As Detectron2's; x (N, C, H, W)."""
        if not is_plain(x.device):
            return super().forward(x)
        weight, bias, norm = self.parameters_to_use(self)
        if self._is_supported(x, weight):
            geometry = Geometry((*self.stride,), (*self.padding,))
            x = convolve(self.ways, x, weight, bias, geometry)
        else:
            x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        x = x if norm is None else norm(x)
        return x if self.activation is None else self.activation(x)

    def _is_supported(self, x: Tensor, weight: Tensor) -> bool:
        return (
            self.groups == 1
            and tuple(self.dilation) == (1, 1)
            and not isinstance(self.padding, str)
            and is_cpu_float(x, weight)
            and x.numel() > 0
            and is_channels_last(x)
        )


def speed_up_convolutions(
    model: nn.Module,
    *,
    way: Conv2dWay | None = None,
    parameters_to_use: Callable | None = None,
) -> None:
    """Add a way to every Conv2d of Detectron2's in `model`, or change the parameters that it uses.

    Only the class of a module changes: blocks and FPN refer to their convolutions in several
    places. Subclasses of Conv2d may compute something else, and stay as they are.
    """
    for module in model.modules():
        if type(module) is Conv2d:
            module.__class__ = FastConv2d
            fast = cast(FastConv2d, module)
            fast.ways, fast.parameters_to_use = (), own_parameters
        if isinstance(module, FastConv2d):
            module.ways = module.ways if way is None else (*module.ways, way)
            module.parameters_to_use = parameters_to_use or module.parameters_to_use


def convolve(
    ways: tuple[Conv2dWay, ...], x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry
) -> Tensor:
    """Return ``F.conv2d`` by the first of `ways` that supports it, else by torch."""
    for way in ways:
        if (y := way.whole(x, weight, bias, at)) is not None:
            return y
    inputs = (x, weight) if bias is None else (x, weight, bias)
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if learns and any(way.supports_backward(x, weight, at) for way in ways):
        return _Convolve.apply(ways, x, weight, bias, at)
    if not learns:
        return _forward(ways, x, weight, bias, at)
    return F.conv2d(x, weight, bias, *at)


def _forward(
    ways: tuple[Conv2dWay, ...], x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry
) -> Tensor:
    for way in ways:
        if (y := way.forward(x, weight, bias, at)) is not None:
            return y
    return F.conv2d(x, weight, bias, *at)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ways: Any, x: Tensor, weight: Tensor, bias: Any, at: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.ways, ctx.at = ways, at
        return _forward(ways, x, weight, bias, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if needs_weight:  # first: it needs more memory for a while
            grad_weight = _first(ctx.ways, "weight_grad", grad, x, weight, ctx.at)
        if needs_x:
            grad_x = _first(ctx.ways, "input_grad", grad, x, weight, ctx.at)
        missing = (needs_x and grad_x is None, needs_weight and grad_weight is None, False)
        if any(missing):
            theirs = torch.ops.aten.convolution_backward(
                grad, x, weight, None, *ctx.at, (1, 1), False, (0, 0), 1, missing
            )
            grad_x = theirs[0] if missing[0] else grad_x
            grad_weight = theirs[1] if missing[1] else grad_weight
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return None, grad_x, grad_weight, grad_bias, None


def _first(ways: tuple[Conv2dWay, ...], method: str, *args: Any) -> Tensor | None:
    for way in ways:
        if (result := getattr(way, method)(*args)) is not None:
            return result
    return None


def share_with_gradient(grad: Tensor) -> float:
    """Return the share of pixels of (N, C, H, W) that have a gradient, from a sample of them."""
    return share_of_rows(grad.permute(0, 2, 3, 1).flatten(0, 2))


def share_of_rows(table: Tensor) -> float:
    """Return the share of rows (R, C) that are not zero, from a sample of them."""
    sample = table[:: max(1, len(table) // SAMPLE)]
    return int(sample.abs().amax(1).count_nonzero()) / max(1, len(sample))
