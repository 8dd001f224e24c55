"""Activations that the backward pass computes again, so that they need no memory until then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, function: Callable, *args: Any) -> Any:
    """``function(*args)``, which keeps nothing but `args` for its backward pass.

    Args:
        module: the one that `function` runs; its running statistics are updated once.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _keep_buffers(module)),
    )


def recompute_module(module: nn.Module) -> None:
    """Let the forward passes of `module` run through `recompute`. Parameters keep their names."""
    setattr(module, "forward", _Recomputed(module))


def recompute_trunk(backbone: nn.Module) -> None:
    """Recompute each stage of the trunk that learns.

    Raises:
        ValueError: it is none of Detectron2's that consist of ``CNNBlockBase``.
    """
    trunk = getattr(backbone, "bottom_up", backbone)
    stages = [child for child in trunk.children() if _is_stage(child)]
    if not stages:
        raise ValueError(
            f"{type(trunk).__name__} has no stages of blocks that could be recomputed; "
            'take "backbone" out of MODEL.QUERYINST.ACTIVATION_CHECKPOINTING'
        )
    for stage in stages:
        if any(parameter.requires_grad for parameter in stage.parameters()):
            recompute_module(stage)


class _Recomputed:
    """In the place of a module's ``forward``."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args: Any) -> Any:
        return recompute(self.module, self._forward, *args)

    def _forward(self, *args: Any) -> Any:
        return type(self.module).forward(self.module, *args)


def _is_stage(module: nn.Module) -> bool:
    return any(isinstance(m, CNNBlockBase) for m in module.modules())


@contextmanager
def _keep_buffers(module: nn.Module) -> Iterator[None]:
    """Let `module` write into copies of its buffers for a while.

    In-place restoring would not do: autograd minds changes of what it has saved.
    """
    owners = [m for m in module.modules() if m._buffers]
    before = [dict(m._buffers) for m in owners]
    for owner, buffers in zip(owners, before):
        copies = {name: None if b is None else b.clone() for name, b in buffers.items()}
        owner._buffers.update(copies)
    try:
        yield
    finally:
        for owner, buffers in zip(owners, before):
            owner._buffers.update(buffers)
