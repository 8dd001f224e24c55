"""The optimizer: parameter groups, AdamW or SGD, gradient clipping. Schedules are Detectron2's."""

import logging
import weakref
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from .config_limits import check_limits

BOTTOM_UP = "backbone.bottom_up."


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters of ``model`` that require gradients.

    ``backbone.bottom_up`` learns at ``BASE_LR * BACKBONE_MULTIPLIER``; everything else, including
    the FPN, at ``BASE_LR``; biases at ``BIAS_LR_FACTOR`` times that. With CLIP_TYPE
    "full_model" every ``step()`` first scales the gradients of all parameters together down to a
    norm of at most CLIP_VALUE; the other types are Detectron2's.

    Args:
        cfg: ``cfg.SOLVER`` is read, after Detectron2 has scaled it to the number of processes.
        model: not yet wrapped for distributed training, which changes the parameters' names.

    Raises:
        ValueError: a key of SOLVER has an invalid value (see ``check_solver``).
    """
    check_solver(cfg)
    solver = cfg.SOLVER
    groups = _parameter_groups(solver, model)
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "ADAMW":
        optimizer = _build_adamw(groups, common)
    else:
        optimizer = torch.optim.SGD(
            groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common
        )
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        full_model_clip = FullModelClip(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        setattr(optimizer, "full_model_clip", full_model_clip)
        return optimizer
    return maybe_add_gradient_clipping(cfg, optimizer)


def _build_adamw(groups: list[dict], common: dict) -> torch.optim.AdamW:
    """AdamW, fused on the CPU, where its loop over tensors is slow."""
    on_cpu = all(param.device.type == "cpu" for group in groups for param in group["params"])
    fused = True if on_cpu else None
    optimizer = torch.optim.AdamW(groups, fused=fused, **common)

    def keep_fused(optimizer: torch.optim.Optimizer) -> None:
        """A checkpoint may come from another device."""
        for group in optimizer.param_groups:
            group["fused"] = fused

    optimizer.register_load_state_dict_post_hook(keep_fused)
    return optimizer


def check_solver(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key if the optimizer or its schedule cannot be built."""
    check_limits(cfg, "SOLVER")
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        _check_steps(solver.STEPS, solver.MAX_ITER)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise ValueError(
            f"{solver.BASE_LR_END} must be <= SOLVER.BASE_LR {solver.BASE_LR}; "
            "set SOLVER.BASE_LR_END"
        )


def _check_steps(steps: tuple[int, ...], max_iter: int) -> None:
    # Detectron2 itself ignores, with a warning, what lies beyond the end.
    used = [step for step in steps if step <= max_iter]
    if any(first >= second for first, second in pairwise([0, *used, max_iter])):
        limits = f"must increase between 0 and SOLVER.MAX_ITER {max_iter}"
        raise ValueError(f"{tuple(steps)} {limits}; set SOLVER.STEPS")


def _parameter_groups(solver: CfgNode, model: nn.Module) -> list[dict]:
    """One group for each distinct pair of learning rate and weight decay."""

    def lr_factor(name: str) -> float:
        # Detectron2's own bias_lr_factor would replace bottom_up's factor, not multiply it.
        bias_factor = solver.BIAS_LR_FACTOR if name.endswith(".bias") else 1.0
        return bias_factor * (solver.BACKBONE_MULTIPLIER if name.startswith(BOTTOM_UP) else 1.0)

    has_bottom_up = any(name.startswith(BOTTOM_UP) for name, _ in model.named_parameters())
    if solver.BACKBONE_MULTIPLIER != 1.0 and not has_bottom_up:
        logging.getLogger(__name__).warning(
            "SOLVER.BACKBONE_MULTIPLIER %s has no effect: no parameter's name starts with %s",
            solver.BACKBONE_MULTIPLIER,
            BOTTOM_UP,
        )
    return get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lr_factor,
    )


def grad_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """The norm of all gradients together, a scalar on their device; 0 if there are none.

    The clipping of CLIP_TYPE "full_model" in the next ``step()`` uses this norm and does not
    compute it again: gradients must stay as they are until then.
    """
    clip = getattr(optimizer, "full_model_clip", None)
    return clip.norm() if clip else nn.utils.get_total_norm(_gradients(optimizer))


def _gradients(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    params = (param for group in optimizer.param_groups for param in group["params"])
    return [param.grad for param in params if param.grad is not None]


class FullModelClip:
    """Lets every ``optimizer.step()`` first scale all gradients to a common norm <= `max_norm`.

    A scaler of gradients must have unscaled them by then.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float):
        self._optimizer = weakref.ref(optimizer)
        self._max_norm = max_norm
        self._norm_type = norm_type
        self._norm: torch.Tensor | None = None  # of the gradients that the next step will see
        optimizer.register_step_pre_hook(self._clip)

    def norm(self) -> torch.Tensor:
        """As `grad_norm`."""
        optimizer = self._optimizer()
        assert optimizer is not None
        self._norm = nn.utils.get_total_norm(_gradients(optimizer), self._norm_type)
        return self._norm

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        norm, self._norm = self._norm if self._norm is not None else self.norm(), None
        params = [param for group in optimizer.param_groups for param in group["params"]]
        nn.utils.clip_grads_with_norm_(params, self._max_norm, norm)
