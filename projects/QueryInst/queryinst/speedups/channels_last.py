"""Feature maps whose channels lie innermost in memory, from the image on."""

from typing import Any

import torch
from torch import Tensor, nn

from ..modeling import QueryInst
from .conditions import is_channels_last, is_traced


def apply_to_model(model: QueryInst) -> None:
    """Let the backbone read and write channels-last on the CPU."""
    model.backbone.register_forward_pre_hook(_images_channels_last, with_kwargs=True)
    model.backbone.register_forward_hook(_levels_channels_last)


def _channels_last(x: Tensor) -> Tensor:
    if x.device.type != "cpu" or is_traced():
        return x
    return x if is_channels_last(x) else x.contiguous(memory_format=torch.channels_last)


def _images_channels_last(
    backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    images = tuple(map(_channels_last, args))
    return images, {name: _channels_last(x) for name, x in kwargs.items()}


def _levels_channels_last(
    backbone: nn.Module, args: tuple[Any, ...], levels: dict[str, Tensor]
) -> dict[str, Tensor]:
    return {name: _channels_last(x) for name, x in levels.items()}
