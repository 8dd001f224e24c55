"""The kernel generator of a DynamicConv as one linear layer for each of its two kernels.

The kernels of all RoIs are the largest tensors of a stage. Autograd's backward pass of cutting them
apart copies both gradients into one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..modeling import QueryInst
from ..modeling.dynamic_conv import DynamicConv
from .conditions import is_plain


def apply_to_model(model: QueryInst) -> None:
    """Let every DynamicConv of `model` generate its kernels without a copy."""
    for module in model.modules():
        if type(module) is DynamicConv:
            module.__class__ = SplitDynamicConv


class SplitDynamicConv(DynamicConv):
    """A DynamicConv that generates its two kernels separately in training."""

    def generate_kernels(self, query_feats: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled() or not is_plain(query_feats.device):
            return super().generate_kernels(query_feats)
        linear = self.kernel_generator
        return _SplitLinear.apply(query_feats, linear.weight, linear.bias)


class _SplitLinear(torch.autograd.Function):
    """``F.linear`` whose outputs come in two halves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        half = len(weight) // 2
        return F.linear(x, weight[:half], bias[:half]), F.linear(x, weight[half:], bias[half:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_first: Tensor, grad_second: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        half = len(weight) // 2
        grad_x = (grad_first @ weight[:half]).addmm_(grad_second, weight[half:])
        grad_weight = torch.empty_like(weight)
        torch.mm(grad_first.T, x, out=grad_weight[:half])
        torch.mm(grad_second.T, x, out=grad_weight[half:])
        return grad_x, grad_weight, torch.cat([grad_first.sum(0), grad_second.sum(0)])
