"""Activation checkpointing: the backward pass computes activations again instead of keeping them.

MODEL.QUERYINST.ACTIVATION_CHECKPOINTING chooses the parts of the model that it is used in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_call(module: nn.Module, function: Callable, *args: Any) -> Any:
    """Return ``function(*args)``, of which autograd keeps nothing but `args`.

    Args:
        module: the one that `function` runs. Its running statistics are updated once, not twice.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _keep_buffers(module)),
    )


def checkpoint_module(module: nn.Module) -> None:
    """Run each forward pass of `module` through `checkpoint_call`. Parameters keep their names."""
    setattr(module, "forward", _CheckpointedForward(module))


def checkpoint_backbone(backbone: nn.Module) -> None:
    """Checkpoint each stage of ``bottom_up`` that has parameters to train.

    Raises:
        ValueError: ``bottom_up`` has no stages of Detectron2's ``CNNBlockBase``.
    """
    bottom_up = getattr(backbone, "bottom_up", backbone)
    stages = [child for child in bottom_up.children() if _is_stage(child)]
    if not stages:
        raise ValueError(
            f"{type(bottom_up).__name__} has no stages of CNNBlockBase to checkpoint; "
            "remove 'backbone' from MODEL.QUERYINST.ACTIVATION_CHECKPOINTING"
        )
    for stage in stages:
        if any(parameter.requires_grad for parameter in stage.parameters()):
            checkpoint_module(stage)


class _CheckpointedForward:
    """Replaces a module's ``forward``."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args: Any) -> Any:
        return checkpoint_call(self.module, self._forward, *args)

    def _forward(self, *args: Any) -> Any:
        return type(self.module).forward(self.module, *args)


def _is_stage(module: nn.Module) -> bool:
    return any(isinstance(m, CNNBlockBase) for m in module.modules())


@contextmanager
def _keep_buffers(module: nn.Module) -> Iterator[None]:
    """Let `module` write into copies of its buffers for a while.

    Restoring their values in place would not do: autograd checks that saved tensors are unchanged.
    """
    before = [(owner, dict(owner.named_buffers(recurse=False))) for owner in module.modules()]
    for owner, buffers in before:
        for name, buffer in buffers.items():
            setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, buffers in before:
            for name, buffer in buffers.items():
                setattr(owner, name, buffer)
