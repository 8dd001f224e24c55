"""Clipping within AdamW's fused step against clipping before it."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from queryinst.solver import build_optimizer
from queryinst.testing import tiny_cfg


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 70))


def make_cfg(clip_value: float = 0.1, amp: bool = False) -> CfgNode:
    cfg = tiny_cfg(SOLVER__BASE_LR=0.1, SOLVER__BACKBONE_MULTIPLIER=1.0, SOLVER__AMP__ENABLED=amp)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", clip_value
    return cfg


def adamw_steps(
    dtype, clip_value: float, num: int = 3, scaler=None
) -> tuple[nn.Module, list[torch.Tensor | None]]:
    """A model after some steps, and the gradients that the last one left."""
    model = make_model().to(dtype)
    optimizer = build_optimizer(make_cfg(clip_value, amp=scaler is not None), model)
    assert all(group["fused"] for group in optimizer.param_groups)
    params = list(model.parameters())
    generator = torch.Generator().manual_seed(1)
    for step in range(num):
        optimizer.zero_grad()
        factors = [torch.randn(p.shape, generator=generator).to(p) * 3**step for p in params]
        loss = sum((p * f).sum() for p, f in zip(params[1:], factors[1:]))  # the first has none
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return model, [param.grad for param in params]


@pytest.mark.parametrize("clip_value", [0.1, 1e4])
def test_clipping_within_a_fused_step_equals_clipping_before_it(clip_value):
    """In float64 gradients are scaled before the step, by PyTorch's own function."""
    found, found_grads = adamw_steps(torch.float32, clip_value)
    expected, expected_grads = adamw_steps(torch.float64, clip_value)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)
    for one, other in zip(found_grads, expected_grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip_value", [0.1, 1e4])
def test_a_fused_step_that_unscales_clips_the_true_gradients(clip_value):
    """As GradScaler steps fused optimizers unless it was told to unscale before."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    found, grads = adamw_steps(torch.float32, clip_value, scaler=scaler)
    expected, expected_grads = adamw_steps(torch.float32, clip_value)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads[1:], expected_grads[1:], rtol=1e-5, atol=1e-7)


def test_no_clipping_is_left_behind_for_other_steps():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(make_cfg(), model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.grad_scale is None
    optimizer.zero_grad()
    optimizer.step()  # without gradients
