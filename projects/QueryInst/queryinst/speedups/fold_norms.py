"""Static batch norms folded into the convolutions before them, in each call.

norm(conv(x)) is a convolution by weight * scale: one pass over the activations less, and autograd
need not keep the convolution's output. The weights are folded anew in each call, so that parameters
keep their names and learn as before, with exact gradients.
"""

from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..modeling import QueryInst
from .conv2d import folded, is_static, own_parameters, speed_up_convolutions


def apply_to_model(model: QueryInst) -> None:
    """Let the convolutions of `model` run without their norm's pass where it is static."""
    speed_up_convolutions(model, parameters_to_use=folded_parameters)


def folded_parameters(conv: Conv2d) -> tuple[Tensor, Tensor | None, nn.Module | None]:
    """As `own_parameters`, folded and without a norm if that is static."""
    return (*folded(conv), None) if is_static(conv.norm) else own_parameters(conv)
