"""A copy of a model that only predicts, with its static batch norms folded for good."""

import copy
from typing import cast

import torch
from detectron2.layers import Conv2d
from torch import nn

from ..modeling import QueryInst
from .conv2d import FastConv2d, folded, is_static


def optimize_for_inference(model: QueryInst) -> QueryInst:
    """Return an inference_only copy with batch norms folded into its convolutions.

    `fold_norms` does that anew in every call, since weights may change. The copy has done it once,
    and lacks the mask heads that training alone runs. Detections are the same within rounding. Its
    parameters have other names and values than a checkpoint has, so load weights first; it cannot
    be trained.

    Raises:
        ValueError: `model` is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before it is copied")
    optimized = copy.deepcopy(model)
    optimized.make_inference_only()
    optimized.inference_only = True  # a box detector, too: its norms are gone
    for module in optimized.modules():
        if type(module) in (Conv2d, FastConv2d):
            _fold_for_good(cast(Conv2d, module))
    return optimized.requires_grad_(False)


@torch.no_grad()
def _fold_for_good(conv: Conv2d) -> None:
    if not is_static(conv.norm):
        return
    weight, bias = folded(conv)
    if weight.device.type == "cpu":
        weight = weight.contiguous(memory_format=torch.channels_last)
    conv.weight, conv.bias, conv.norm = nn.Parameter(weight), nn.Parameter(bias), None
