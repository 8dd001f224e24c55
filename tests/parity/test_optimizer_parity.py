"""Parameter groups, a clipped step, learning rates and what is trained, against MMDetection's."""

import goldens
import our_runs
import pytest
import torch
from detectron2.solver import build_lr_scheduler
from torch import nn

from queryinst.engine.trainer import Trainer
from queryinst.model_zoo.conversion import build_on_meta
from queryinst.solver import build_optimizer

SCHEDULES = {
    "1x": "queryinst_R_50_FPN_1x",
    "3x": "queryinst_R_50_FPN_3x",
}
MODELS = {
    "queryinst_R_50_FPN_1x",
    "queryinst_R_50_FPN_3x",
    "queryinst_R_50_FPN_3x_300q",
    "queryinst_R_101_FPN_3x",
    "queryinst_R_101_FPN_3x_300q",
}


def settings_by_name(optimizer, model) -> dict:
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: (pytest.approx(group["lr"]), pytest.approx(group["weight_decay"]))
        for group in optimizer.param_groups
        for param in group["params"]
    }


def test_build_optimizer_gives_mmdetections_rate_and_decay(model):
    optimizer = build_optimizer(our_runs.zoo_cfg(SCHEDULES["1x"]), model)
    groups = goldens.load_json("solver")["groups"]
    assert len(groups) == 2
    expected = {
        name: (group["lr"], group["weight_decay"])
        for group in groups
        for name in goldens.our_names(group["names"])
    }
    assert settings_by_name(optimizer, model) == expected


def gradients_of_plain(model, training_records) -> None:
    record = training_records("plain")
    for name, param in model.named_parameters():
        param.grad = record[f"grad/{name}"].clone() if f"grad/{name}" in record else None


@pytest.mark.parametrize("build", [build_optimizer, Trainer.build_optimizer])
def test_optimizer_step_ends_at_mmdetections_parameters(model, training_records, build):
    gradients_of_plain(model, training_records)
    before = goldens.weights_of(model)
    cfg = our_runs.zoo_cfg(SCHEDULES["1x"])
    grads = [param.grad.flatten() for param in model.parameters() if param.grad is not None]
    assert torch.cat(grads).norm() > cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 0.1
    build(cfg, model).step()
    after = goldens.weights_of(model)
    goldens.check(goldens.sampled(after, "step"), goldens.load("step"))
    trained = {f"parameter/{n}" for n, param in model.named_parameters() if param.grad is not None}
    assert {key for key, value in before.items() if not after[key].equal(value)} == trained


def test_optimizer_step_sees_the_clipping(model, training_records):
    """AdamW's first step hardly depends on the gradients' size: it does where they are tiny."""
    gradients_of_plain(model, training_records)
    cfg = our_runs.zoo_cfg(SCHEDULES["1x"])
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    build_optimizer(cfg, model).step()
    after = goldens.weights_of(model)
    with pytest.raises(AssertionError, match="tensors differ"):
        goldens.check(goldens.sampled(after, "step"), goldens.load("step"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_build_optimizer_takes_mmdetections_trained_parameters(name):
    golden = goldens.load_json("parameter_names")
    assert golden["models"].keys() == MODELS
    theirs = golden["lists"][golden["models"][name]]
    model = build_on_meta(our_runs.zoo_cfg(name))
    trained = {key for key, param in model.named_parameters() if param.requires_grad}
    weights = {key.removeprefix("parameter/") for key in goldens.weights_of(model)}
    assert trained == set(goldens.our_names(theirs["trained"]))
    assert weights - trained == set(goldens.our_names(theirs["frozen"]))


class TwoGroups(nn.Module):
    """A parameter of bottom_up, which learns at a tenth of the rate, and one of the rest."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Linear(1, 1, bias=False)})
        self.cascade = nn.Linear(1, 1, bias=False)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_build_lr_scheduler_gives_mmengines_rates(name):
    rates = goldens.load_json("solver")["learning_rates"]["1x" if name.endswith("1x") else "3x"]
    cfg = our_runs.zoo_cfg(name)
    assert max(map(int, rates)) == cfg.SOLVER.MAX_ITER - 1
    steps = cfg.SOLVER.STEPS
    drops = {str(step + offset) for step in steps for offset in (-1, 0)}
    looked_at = {"0", "1", "498", "499", "998", "999", "1000", str(cfg.SOLVER.MAX_ITER - 1)}
    assert rates.keys() == looked_at | drops
    model = TwoGroups()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    in_bottom_up = [
        group["params"][0] is model.backbone["bottom_up"].weight for group in optimizer.param_groups
    ]
    for iteration, (bottom_up_rate, rate) in rates.items():
        scheduler.last_epoch = int(iteration)
        expected = [bottom_up_rate if is_inside else rate for is_inside in in_bottom_up]
        assert scheduler.get_lr() == pytest.approx(expected, rel=1e-9), iteration
    assert len(optimizer.param_groups) == 2 and sum(in_bottom_up) == 1
