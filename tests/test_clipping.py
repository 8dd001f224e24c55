"""Clipping of all gradients together before each step, by hand beside it."""

import pytest
import torch
from torch import nn

from queryinst.solver import build_optimizer
from queryinst.testing import tiny_cfg


def make_model(dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 70)).to(dtype)


def make_optimizer(model: nn.Module, clip_value: float, name: str) -> torch.optim.Optimizer:
    cfg = tiny_cfg(SOLVER__BASE_LR=0.1, SOLVER__BACKBONE_MULTIPLIER=1.0, SOLVER__OPTIMIZER=name)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", clip_value
    return build_optimizer(cfg, model)


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("clip_value", [0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_build_optimizer_scales_what_each_step_sees_to_the_norm(dtype, clip_value, scaled, name):
    """Also where a scaler has unscaled before; a parameter without gradient stays without."""
    model = make_model(dtype)
    optimizer = make_optimizer(model, clip_value, name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
    params = list(model.parameters())
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        optimizer.zero_grad()
        factors = [torch.randn(p.shape, generator=generator).to(p) * 3**step for p in params[1:]]
        scaler.scale(sum((p * f).sum() for p, f in zip(params[1:], factors))).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        norm = torch.cat([f.flatten() for f in factors]).double().norm()
        excess = max(1.0, float(norm) / clip_value)
        assert (excess > 1) == (clip_value == 0.1) and params[0].grad is None
        for param, factor in zip(params[1:], factors):
            torch.testing.assert_close(param.grad, factor / excess, rtol=1e-5, atol=1e-8)


def test_build_optimizer_takes_a_step_without_gradients():
    model = make_model(torch.float32)
    make_optimizer(model, 0.1, "ADAMW").step()
