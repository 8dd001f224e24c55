"""Detectron2's FPN, with less memory and work where nobody learns."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN
from torch import Tensor, nn

from .deferred_level import DeferredLevel, DeferringConv2d, Level
from .folding import FoldingConv2d
from .precision import runs_plainly


class Pyramid(Mapping):
    """Feature maps by name, as a backbone's; who asks for a deferred one has it convolved."""

    def __init__(self, levels: dict[str, Level]):
        self.levels = levels

    def __getitem__(self, name: str) -> Tensor:
        level = self.levels[name]
        return level.convolved if isinstance(level, DeferredLevel) else level

    def __iter__(self) -> Iterator[str]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)


class DeferringFPN(FPN):
    """Detectron2's FPN, the finest level of which may wait."""

    def forward(self, x: Tensor) -> dict[str, Tensor] | Pyramid:
        """As FPN's; a Pyramid where a level waits."""
        if torch.is_grad_enabled() or not runs_plainly(x.device):
            return super().forward(x)
        levels = self._predict(x)
        if any(isinstance(level, DeferredLevel) for level in levels.values()):
            return Pyramid(levels)
        return cast(dict[str, Tensor], levels)

    def _predict(self, x: Tensor) -> dict[str, Level]:
        """FPN's forward pass, which adds in place and gives up the trunk's maps on its way."""
        features = dict(self.bottom_up(x))
        top_feature = None
        if self.top_block is not None:
            top_feature = features.get(self.top_block.in_feature)
        levels: list[Level] = []
        coarser = None
        for name, lateral, output in zip(
            self.in_features[::-1],
            cast(list[nn.Module], self.lateral_convs),
            cast(list[nn.Module], self.output_convs),
        ):
            merged = lateral(features.pop(name))
            if coarser is not None:
                add_upsampled_(merged, coarser)
                if self._fuse_type == "avg":
                    merged /= 2
            levels.insert(0, output(merged))
            coarser = merged
        if self.top_block is not None:
            if top_feature is None:
                top_feature = levels[self._out_features.index(self.top_block.in_feature)]
            levels.extend(self.top_block(top_feature))
        assert len(self._out_features) == len(levels)
        return dict(zip(self._out_features, levels))


def add_upsampled_(x: Tensor, coarser: Tensor) -> Tensor:
    """Add to each pixel of (N, C, 2H, 2W) the one of (N, C, H, W) that it lies in, in place."""
    height, width = coarser.shape[2:]
    blocks = x.unflatten(3, (width, 2)).unflatten(2, (height, 2))
    blocks += coarser[:, :, :, None, :, None]
    return x


def defer_finest_level(backbone: nn.Module) -> None:
    """Let the finest level wait if `backbone` is an FPN as Detectron2 builds it."""
    if type(backbone) is not FPN:
        return
    conv = cast(list[Conv2d], backbone.output_convs)[-1]
    if type(conv) in (Conv2d, FoldingConv2d) and conv.norm is None and conv.activation is None:
        conv.__class__ = DeferringConv2d
        backbone.__class__ = DeferringFPN
