"""Static batch norms folded into the convolutions in front of them, on the fly."""

from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import Tensor, nn

from .convolution import convolve
from .precision import at_least_fp32

# By exact type: a subclass may compute something else. These two lists do the same in eval mode.
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


class FoldingConv2d(Conv2d):
    """Detectron2's Conv2d that leaves out its batch norm's pass where statistics are constants.

    It runs by `convolve`, with or without a norm.

    norm(conv(x)) is a convolution by weight * scale: one pass over the activations less, and
    autograd need not keep the convolution's output. The folded weights are made anew in each
    call, so that parameters keep their names and learn as before, with exact gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As Detectron2's.

        Args:
            x: (N, C, H, W).
        """
        is_folded = is_static(self.norm)
        weight, bias = folded(self) if is_folded else (self.weight, self.bias)
        x = convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if self.norm is not None and not is_folded:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def is_static(norm: nn.Module | None) -> bool:
    """Whether `norm` is a batch norm that uses running statistics in its present mode."""
    if norm is None or type(norm) is FrozenBatchNorm2d:
        return norm is not None
    return type(norm) in _BATCH_NORMS and not norm.training and norm.running_mean is not None


def folded(conv: Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals `conv` and its static norm."""
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


def speed_up_convolutions(model: nn.Module) -> None:
    """Let every Conv2d of Detectron2's in `model` run as `FoldingConv2d`.

    Only classes change: blocks and FPN hold references to their convolutions in several places.
    """
    for module in model.modules():
        if type(module) is Conv2d:
            module.__class__ = FoldingConv2d
