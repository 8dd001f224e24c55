"""A copy of a model that can predict alone, and does so somewhat faster."""

import copy

import torch
from detectron2.layers import Conv2d
from torch import nn

from .modeling import QueryInst
from .modeling.folding import FoldingConv2d, folded, is_static


def optimize_for_inference(model: QueryInst) -> QueryInst:
    """A copy with batch norms folded into its convolutions, for good.

    A model does that anew in every call, since its weights may change. The copy has done it once,
    and goes without the mask heads that training alone runs. Detections are the same within
    rounding. Its parameters have other names and values than a checkpoint has, so load weights
    first; it cannot be trained.

    Raises:
        ValueError: `model` is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before it is copied")
    optimized = copy.deepcopy(model)
    optimized.make_slim()
    for module in optimized.modules():
        if type(module) is FoldingConv2d and is_static(module.norm):
            _fold_for_good(module)
    optimized.requires_grad_(False)
    optimized.predicts_only = True
    return optimized


@torch.no_grad()
def _fold_for_good(conv: FoldingConv2d) -> None:
    weight, bias = folded(conv)
    if weight.device.type == "cpu":
        weight = weight.contiguous(memory_format=torch.channels_last)
    conv.weight, conv.bias, conv.norm = nn.Parameter(weight), nn.Parameter(bias), None
    conv.__class__ = Conv2d
