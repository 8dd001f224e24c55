"""Gradients clipped by the fused optimizer's step itself, without a pass over all of them."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Clip(Protocol):
    """What `solver.build_optimizer` gives an optimizer as ``clip_gradients``."""

    max_norm: float
    norm_type: float

    def __call__(self, optimizer: torch.optim.Optimizer) -> None: ...


def apply_to_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let a step of `optimizer` scale gradients, instead of a pass over them before it."""
    clip = getattr(optimizer, "clip_gradients", None)
    if clip is not None:
        setattr(optimizer, "clip_gradients", ClipInFusedStep(clip))
        optimizer.register_step_post_hook(_forget_scale)


class ClipInFusedStep:
    """Replaces `solver.ClipFullModel` for fused optimizers on the CPU.

    Their step divides gradients by ``grad_scale`` on its way.
    """

    def __init__(self, otherwise: Clip):
        self.otherwise = otherwise

    def __call__(self, optimizer: torch.optim.Optimizer) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        grads = [param.grad for param in params if param.grad is not None]
        if not _divides_gradients(optimizer, grads):
            return self.otherwise(optimizer)
        norms = [torch.linalg.vector_norm(grad, self.otherwise.norm_type) for grad in grads]
        norm = torch.linalg.vector_norm(
            torch.stack(norms or [torch.zeros(())]), self.otherwise.norm_type
        )
        scale = getattr(optimizer, "grad_scale", None)  # of a scaler that leaves it to the step
        scale = torch.ones(()) if scale is None else scale
        excess = ((norm / scale + 1e-6) / self.otherwise.max_norm).clamp(min=1)
        setattr(optimizer, "grad_scale", scale * excess)


def _divides_gradients(optimizer: torch.optim.Optimizer, grads: list[Tensor]) -> bool:
    """Whether the step itself divides gradients by ``grad_scale``, a float32."""
    is_fused = all(group.get("fused") for group in optimizer.param_groups)
    return is_fused and all(g.device.type == "cpu" and g.dtype == torch.float32 for g in grads)


def _forget_scale(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if hasattr(optimizer, "grad_scale"):
        setattr(optimizer, "grad_scale", None)
