"""The optimizer and the schedules against hand-written expectations."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import build_lr_scheduler
from torch import nn

from queryinst.config import add_queryinst_config
from queryinst.solver import build_optimizer, check_solver

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
COCO = "COCO-InstanceSegmentation/queryinst_R_50_FPN_"
ITERATIONS_PER_EPOCH = 7330


def load(name: str, *opts) -> CfgNode:
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list(list(opts))
    return cfg


class SmallModel(nn.Module):
    """The names that decide on learning rate and weight decay, without anything else."""

    def __init__(self):
        super().__init__()
        bottom_up = nn.ModuleDict({"stem": nn.Linear(2, 2), "res5": nn.Linear(2, 3)})
        bottom_up["norm"] = nn.BatchNorm2d(3)
        bottom_up["stem"].requires_grad_(False)
        self.backbone = nn.ModuleDict({"bottom_up": bottom_up, "fpn_output2": nn.Linear(3, 3)})
        self.cascade = nn.ModuleDict({"fc": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})
        self.query_feats = nn.Parameter(torch.ones(4, 2))


def settings_by_name(optimizer, model) -> dict:
    names = {param: name for name, param in model.named_parameters()}
    return {
        names[param]: (pytest.approx(group["lr"]), pytest.approx(group["weight_decay"]))
        for group in optimizer.param_groups
        for param in group["params"]
    }


def test_build_optimizer_lowers_the_rate_of_bottom_up_only():
    model = SmallModel()
    optimizer = build_optimizer(load(f"{COCO}1x.yaml"), model)
    slow, full = (1e-5, 1e-4), (1e-4, 1e-4)
    assert settings_by_name(optimizer, model) == {
        "backbone.bottom_up.res5.weight": slow,
        "backbone.bottom_up.res5.bias": slow,
        "backbone.bottom_up.norm.weight": slow,
        "backbone.bottom_up.norm.bias": slow,
        "backbone.fpn_output2.weight": full,
        "backbone.fpn_output2.bias": full,
        "cascade.fc.weight": full,
        "cascade.fc.bias": full,
        "cascade.norm.weight": full,
        "cascade.norm.bias": full,
        "query_feats": full,
    }
    assert len(optimizer.param_groups) == 2
    assert type(optimizer) is torch.optim.AdamW


def test_build_optimizer_has_one_rate_for_the_authors_recipe():
    optimizer = build_optimizer(load(f"{COCO}3x_300q_paper.yaml"), SmallModel())
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(2.5e-5)]


def test_build_optimizer_follows_the_keys_of_norms_and_biases():
    model = SmallModel()
    keys = ("SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.WEIGHT_DECAY_BIAS", 0.25)
    cfg = load(f"{COCO}1x.yaml", *keys, "SOLVER.BIAS_LR_FACTOR", 2.0)
    settings = settings_by_name(build_optimizer(cfg, model), model)
    assert settings["cascade.fc.weight"] == (1e-4, 1e-4)
    assert settings["cascade.fc.bias"] == (2e-4, 0.25)
    assert settings["cascade.norm.weight"] == (1e-4, 0.5)
    assert settings["cascade.norm.bias"] == (2e-4, 0.25)
    assert settings["backbone.bottom_up.norm.weight"] == (1e-5, 0.5)
    assert settings["backbone.bottom_up.res5.bias"] == (2e-5, 0.25)  # both factors


def test_build_optimizer_warns_of_a_multiplier_without_bottom_up(caplog):
    with caplog.at_level(logging.WARNING):
        build_optimizer(load("Base-QueryInst.yaml"), nn.Linear(2, 2))
    assert "SOLVER.BACKBONE_MULTIPLIER 0.1 has no effect" in caplog.text


def test_build_optimizer_gives_sgd_its_momentum():
    keys = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.8, "SOLVER.NESTEROV", True)
    optimizer = build_optimizer(load("Base-QueryInst.yaml", *keys), SmallModel())
    assert type(optimizer) is torch.optim.SGD
    assert all(g["momentum"] == 0.8 and g["nesterov"] for g in optimizer.param_groups)


# Plain gradient descent at rate 1 without decay moves a parameter by minus its clipped gradient.
PLAIN_SGD = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.BASE_LR", 1.0)
PLAIN_SGD += ("SOLVER.BACKBONE_MULTIPLIER", 1.0, "SOLVER.WEIGHT_DECAY", 0.0)
PLAIN_SGD += ("SOLVER.WEIGHT_DECAY_NORM", 0.0)


def moves_and_gradients(*opts, scale=1.0) -> tuple[dict, dict]:
    torch.manual_seed(0)
    model = SmallModel()
    optimizer = build_optimizer(load("Base-QueryInst.yaml", *PLAIN_SGD, *opts), model)
    before = copy.deepcopy(model.state_dict())
    gradients = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            param.grad = torch.randn_like(param) * scale
            gradients[name] = param.grad.clone()
    optimizer.step()
    after = model.state_dict()
    return {name: after[name] - before[name] for name in gradients}, gradients


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_build_optimizer_clips_by_one_norm_of_all_gradients(norm_type, scale):
    clip = "SOLVER.CLIP_GRADIENTS."
    moves, grads = moves_and_gradients(
        f"{clip}CLIP_VALUE", 0.1, f"{clip}NORM_TYPE", norm_type, scale=scale
    )
    size = torch.cat([grad.flatten() for grad in grads.values()]).abs()
    norm = size.max() if norm_type == float("inf") else (size**norm_type).sum() ** (1 / norm_type)
    factor = min(1.0, 0.1 / norm.item())
    assert (factor < 1) == (scale == 1.0)
    for name, grad in grads.items():
        torch.testing.assert_close(moves[name], -factor * grad, rtol=1e-4, atol=1e-6)


def test_build_optimizer_clips_each_parameter_by_its_norm():
    moves, grads = moves_and_gradients("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")
    for name, grad in grads.items():
        expected = -grad * min(1.0, 0.1 / grad.norm().item())
        torch.testing.assert_close(moves[name], expected, rtol=1e-4, atol=1e-6)


def test_build_optimizer_clips_each_element_by_value():
    moves, grads = moves_and_gradients("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    for name, grad in grads.items():
        torch.testing.assert_close(moves[name], -grad.clamp(-0.1, 0.1), rtol=1e-4, atol=1e-6)


def test_build_optimizer_clips_nothing_if_disabled():
    moves, grads = moves_and_gradients("SOLVER.CLIP_GRADIENTS.ENABLED", False)
    for name, grad in grads.items():
        torch.testing.assert_close(moves[name], -grad, rtol=1e-4, atol=1e-6)


def test_build_optimizer_clips_unscaled_gradients():
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(load("Base-QueryInst.yaml", *PLAIN_SGD), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.tensor([[3.0, 4.0, 0.0]])).sum()).backward()
    scaler.step(optimizer)
    expected = torch.tensor([[0.06, 0.08, 0.0]])  # (3, 4, 0) at a norm of 0.1
    torch.testing.assert_close(before - model.weight, expected, rtol=1e-3, atol=1e-6)


def reference_rate(iteration: int, *, warmup_end: int, drop_epochs: tuple[int, int]) -> float:
    """MMEngine's LinearLR(0.001, begin=0, end=warmup_end) times MultiStepLR over epochs.

    LinearLR adds an equal amount in each of its ``end - begin - 1`` steps.
    """
    progress = min(iteration, warmup_end - 1) / (warmup_end - 1)
    drops = sum(iteration // ITERATIONS_PER_EPOCH >= epoch for epoch in drop_epochs)
    return 1e-4 * (0.001 + (1 - 0.001) * progress) * 0.1**drops


SCHEDULES = {
    "1x": {"epochs": 12, "warmup_end": 1000, "drop_epochs": (8, 11)},
    "3x": {"epochs": 36, "warmup_end": 500, "drop_epochs": (27, 33)},
    "3x_300q": {"epochs": 36, "warmup_end": 500, "drop_epochs": (27, 33)},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_lr_scheduler_follows_mmengines_rate(name):
    schedule = dict(SCHEDULES[name])
    cfg = load(f"{COCO}{name}.yaml")
    assert cfg.SOLVER.MAX_ITER == schedule.pop("epochs") * ITERATIONS_PER_EPOCH
    optimizer = build_optimizer(cfg, SmallModel())
    scheduler = build_lr_scheduler(cfg, optimizer)
    drops = [epoch * ITERATIONS_PER_EPOCH for epoch in schedule["drop_epochs"]]
    looked_at = {0, 1, 2, 250, 498, 499, 500, 998, 999, 1000, cfg.SOLVER.MAX_ITER - 1}
    looked_at |= {drop + offset for drop in drops for offset in (-2, -1, 0, 1, 2)}
    for iteration in sorted(looked_at):
        scheduler.last_epoch = iteration
        expected = reference_rate(iteration, **schedule)
        rates = dict(zip(["bottom_up", "rest"], sorted(scheduler.get_lr())))
        assert rates["rest"] == pytest.approx(expected, rel=1e-9), iteration
        assert rates["bottom_up"] == pytest.approx(0.1 * expected, rel=1e-9), iteration


def test_lr_scheduler_changes_the_rate_of_an_optimizer_that_clips():
    cfg = load("Base-QueryInst.yaml", "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (4,))
    cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.5])
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([5e-5, 7.5e-5, 1e-4, 1e-4, 1e-5, 1e-5])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("OPTIMIZER", "LION", "'LION' must be one of ADAMW, SGD; set SOLVER.OPTIMIZER"),
        ("BASE_LR", 0.0, "0.0 must be > 0; set SOLVER.BASE_LR"),
        ("BASE_LR", float("nan"), "nan must be > 0; set SOLVER.BASE_LR"),
        ("WEIGHT_DECAY", -0.1, "-0.1 must be >= 0; set SOLVER.WEIGHT_DECAY"),
        ("WEIGHT_DECAY_BIAS", -0.1, "-0.1 must be >= 0; set SOLVER.WEIGHT_DECAY_BIAS"),
        ("BACKBONE_MULTIPLIER", -1.0, "-1.0 must be >= 0; set SOLVER.BACKBONE_MULTIPLIER"),
        ("MAX_ITER", 0, "0 must be >= 1; set SOLVER.MAX_ITER"),
        ("CLIP_GRADIENTS.CLIP_TYPE", "all", "'all' must be one of full_model, norm, value; set"),
        ("CLIP_GRADIENTS.CLIP_VALUE", 0.0, "0.0 must be > 0; set SOLVER.CLIP_GRADIENTS.CLIP"),
        (
            "CLIP_GRADIENTS.NORM_TYPE",
            -2.0,
            "-2.0 must be from 1 to 4, or inf for the largest; set SOLVER.CLIP_GRADIENTS.NORM",
        ),
        ("STEPS", (9, 5), "(9, 5) must increase between 0 and SOLVER.MAX_ITER 40000; set"),
        ("STEPS", (40000,), "(40000,) must increase between 0 and SOLVER.MAX_ITER 40000; set"),
    ],
)
def test_check_solver_names_invalid_values(key, value, message):
    cfg = load("Base-QueryInst.yaml", f"SOLVER.{key}", value)
    with pytest.raises(ValueError) as error:
        build_optimizer(cfg, SmallModel())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_check_solver_leaves_steps_beyond_the_end_to_detectron2():
    check_solver(load(f"{COCO}1x.yaml", "SOLVER.MAX_ITER", 10))
