"""Clipping within AdamW's fused step against clipping before it."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.engine import Trainer
from queryinst.solver import ClipFullModel, build_optimizer
from queryinst.speedups.fused_clip import ClipInFusedStep
from queryinst.testing import random_batch, tiny_cfg


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 70))


def make_cfg(clip_value: float = 0.1, names: tuple = ("fused_clip",), norm_type=2.0) -> CfgNode:
    cfg = tiny_cfg(SOLVER__BASE_LR=0.1, SOLVER__BACKBONE_MULTIPLIER=1.0)
    cfg.MODEL.QUERYINST.SPEEDUPS = names
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = norm_type
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "full_model", clip_value
    return cfg


def adamw_steps(
    dtype, cfg: CfgNode, num: int = 3, scaler=None
) -> tuple[nn.Module, list[torch.Tensor | None]]:
    """A model after some steps, and the gradients that the last one left."""
    model = make_model().to(dtype)
    optimizer = Trainer.build_optimizer(cfg, model)
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


def assert_same(ours, theirs, rtol=1e-5) -> None:
    """Parameters, then the gradients that a step left."""
    for one, other in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=1e-6)
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=1e-7)


@pytest.fixture
def plain_clips(monkeypatch):
    """Calls of the plain clipping."""
    calls = []
    original = ClipFullModel.__call__
    monkeypatch.setattr(
        ClipFullModel, "__call__", lambda *args: calls.append(args) or original(*args)
    )
    return calls


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("clip_value", [0.1, 1e4])
def test_ClipInFusedStep_equals_clipping_before_the_step(clip_value, norm_type, plain_clips):
    ours = adamw_steps(torch.float32, make_cfg(clip_value, norm_type=norm_type))
    assert plain_clips == []
    plain_cfg = make_cfg(clip_value, (), norm_type)
    assert_same(ours, adamw_steps(torch.float32, plain_cfg))
    assert_same(ours, adamw_steps(torch.float64, plain_cfg))
    assert len(plain_clips) == 2 * 3


def test_ClipInFusedStep_leaves_double_precision_to_PyTorch(plain_clips):
    ours = adamw_steps(torch.float64, make_cfg())
    assert len(plain_clips) == 3
    assert_same(ours, adamw_steps(torch.float64, make_cfg(names=())), rtol=0)


@pytest.mark.parametrize("clip_value", [0.1, 1e4])
def test_ClipInFusedStep_clips_the_true_gradients_of_a_step_that_unscales(clip_value):
    """As GradScaler steps fused optimizers unless it was told to unscale before."""
    cfg = make_cfg(clip_value)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    assert_same(
        adamw_steps(torch.float32, cfg, scaler=scaler), adamw_steps(torch.float32, cfg), rtol=1e-5
    )


def test_ClipInFusedStep_lets_a_scaler_leave_a_step_out():
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = Trainer.build_optimizer(make_cfg(), model)
    before = [param.detach().clone() for param in model.parameters()]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.tensor([[1.0, float("inf")]])).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(map(torch.equal, model.parameters(), before))


def test_ClipInFusedStep_leaves_no_clipping_behind_for_other_steps():
    model = nn.Linear(2, 2)
    optimizer = Trainer.build_optimizer(make_cfg(), model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.grad_scale is None
    optimizer.zero_grad()
    optimizer.step()  # without gradients


def test_build_optimizer_of_Trainer_alone_clips_in_the_step():
    model, cfg = nn.Linear(2, 2), make_cfg()
    assert type(Trainer.build_optimizer(cfg, model).clip_gradients) is ClipInFusedStep
    assert type(Trainer.build_optimizer(make_cfg(names=()), model).clip_gradients) is ClipFullModel
    assert type(build_optimizer(cfg, model).clip_gradients) is ClipFullModel
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    assert not hasattr(Trainer.build_optimizer(cfg, model), "clip_gradients")


def test_ClipInFusedStep_leaves_optimizers_that_are_not_fused_to_PyTorch(plain_clips):
    model = nn.Linear(2, 2)
    cfg = make_cfg()
    cfg.SOLVER.OPTIMIZER = "SGD"
    optimizer = Trainer.build_optimizer(cfg, model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)
    assert len(plain_clips) == 1


def test_build_optimizer_of_Trainer_moves_a_model_as_the_plain_optimizer_does(entries):
    """In float32, which the fused step needs."""
    results, batches = [], [random_batch((2, 1), seed=step) for step in range(2)]
    for names in ((), ("fused_clip",)):
        torch.manual_seed(0)
        cfg = make_cfg(names=names)
        model = build_model(cfg).train()
        before = [param.detach().clone() for param in model.parameters()]
        optimizer = Trainer.build_optimizer(cfg, model)
        for group in optimizer.param_groups:  # else Adam makes steps of gradients that are rounding
            group["eps"], group["lr"] = 1e-3, 0.01
        with entries() as counts:
            for batch in batches:
                optimizer.zero_grad()
                with EventStorage():
                    sum(model(batch).values()).backward()
                optimizer.step()
        assert counts["fused_clip.ClipInFusedStep.__call__"] == (2 if names else 0)
        results.append(list(model.parameters()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert sum(not one.equal(other) for one, other in zip(results[1], before)) > 100
