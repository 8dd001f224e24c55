"""The 3x3 convolution of the mask heads, as the reference's ConvModule initializes it."""

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


def build_conv3x3(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    """Build a 3x3 convolution, a norm and a ReLU; Kaiming normal (fan out).

    Args:
        norm: a name of Detectron2's ``get_norm``, or "".
    """
    # naiveSyncBN_N weighs each process by its number of RoIs, since processes differ in it.
    norm = "naiveSyncBN_N" if norm == "naiveSyncBN" else norm
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu_,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
