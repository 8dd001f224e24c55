"""Static batch norms folded into the convolutions before them, in each call.

norm(conv(x)) is a convolution by weight * scale: one pass over the activations less, and autograd
need not keep the convolution's output. The weights are folded anew in each call, so that parameters
keep their names and learn as before, with exact gradients.
"""

from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import Tensor, nn

from ..modeling import QueryInst
from ..precision import at_least_fp32
from .conv2d import own_parameters, speed_up_convolutions

# By exact type: a subclass may compute something else. In eval mode these compute the same.
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


def apply_to_model(model: QueryInst) -> None:
    """Let the convolutions of `model` run without their norm's pass where it is static."""
    speed_up_convolutions(model, parameters_to_use=folded_parameters)


def folded_parameters(conv: Conv2d) -> tuple[Tensor, Tensor | None, nn.Module | None]:
    """As `own_parameters`, folded and without a norm if that is static."""
    return (*folded(conv), None) if is_static(conv.norm) else own_parameters(conv)


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
