"""Steps whose losses or gradients are not finite."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst import solver
from queryinst.engine import Trainer, run
from queryinst.engine.steps import StepTrainer
from queryinst.solver import build_optimizer
from queryinst.testing import random_batch, tiny_cfg

NAN, INF = float("nan"), float("inf")
CLIPS = ["off", "full_model", "norm", "value"]


class Sums(nn.Module):
    """Two losses, each of its own weights."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.b = nn.Parameter(torch.tensor([3.0]))
        self.frozen = nn.Parameter(torch.tensor([NAN]), requires_grad=False)

    def forward(self, factors):
        a, b = factors
        return {"loss_a": (self.a * a).sum(), "loss_b": (self.b * b).sum()}


def make_steps(clip: str, inputs, precision: str = "fp32") -> StepTrainer:
    """A StepTrainer with AdamW, which would carry on what is not finite for ever."""
    cfg = tiny_cfg(SOLVER__BASE_LR=0.1, SOLVER__BACKBONE_MULTIPLIER=1.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip != "off"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip if clip != "off" else "value"
    cfg.SOLVER.AMP.ENABLED = precision != "fp32"
    model = Sums()
    steps = StepTrainer(model, inputs, build_optimizer(cfg, model), cfg)
    steps.iter = 0
    return steps


def spoil_gradient(steps: StepTrainer, value: float) -> None:
    """One element of one gradient, behind losses that are finite."""
    steps.model.b.register_hook(lambda gradient: torch.full_like(gradient, value))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_check_ends_a_step_with_a_gradient_that_is_not_finite(clip, value):
    steps = make_steps(clip, [(1.0, 1.0)] * 2)
    with EventStorage():
        steps.run_step()
        before = {name: x.clone() for name, x in steps.model.state_dict().items()}
        state = [x.clone() for s in steps.optimizer.state.values() for x in s.values()]
        spoil_gradient(steps, value)
        with pytest.raises(
            FloatingPointError, match="norm of the gradients is (nan|inf), first that of b$"
        ):
            steps.run_step()
    assert all(x.equal(before[n]) for n, x in steps.model.state_dict().items() if n != "frozen")
    after = [x for s in steps.optimizer.state.values() for x in s.values()]
    assert len(after) == 6 and all(x.equal(y) for x, y in zip(after, state))


def test_check_finds_a_norm_that_overflows_though_each_gradient_is_finite():
    steps = make_steps("full_model", [(1e30, 1.0)])
    with EventStorage(), pytest.raises(
        FloatingPointError, match="the norm of the gradients is inf$"
    ):
        steps.run_step()
    assert steps.model.a.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("clip", CLIPS)
def test_check_computes_the_norm_once(monkeypatch, clip):
    calls = []
    whole = nn.utils.get_total_norm

    def counted(tensors, *args, **kwargs):
        calls.append(len(list(tensors)))
        return whole(tensors, *args, **kwargs)

    monkeypatch.setattr(solver.nn.utils, "get_total_norm", counted)
    steps = make_steps(clip, [(1.0, 1.0)])
    with EventStorage():
        steps.run_step()
    assert calls == [2]


def test_update_ends_the_run_if_the_scale_no_longer_helps():
    """Some overflows are the scaler's business; here even the unscaled loss has them."""
    sgd = {"SOLVER__OPTIMIZER": "SGD", "SOLVER__BACKBONE_MULTIPLIER": 1.0}
    cfg = tiny_cfg(SOLVER__AMP__ENABLED=True, **sgd)
    model = Sums()
    model.b.register_hook(lambda gradient: gradient * INF)
    steps = StepTrainer(model, [(1.0, 1.0)] * 20, build_optimizer(cfg, model), cfg)
    steps.iter = 0
    with EventStorage():
        for _ in range(16):  # from 2**16 to 1
            steps.run_step()
        with pytest.raises(FloatingPointError, match="gradients overflow in fp16"):
            steps.run_step()
    assert model.a.tolist() == [1.0, 2.0]


def test_check_counts_a_loss_that_is_not_finite_in_fp16_too():
    steps = make_steps("off", [(NAN, 1.0)], precision="fp16")
    with EventStorage(), pytest.raises(FloatingPointError, match="^loss_a is nan$"):
        steps.run_step()
    assert steps.model.a.tolist() == [1.0, 2.0]


def batches() -> list[list[dict]]:
    result = [random_batch((2, 1), 64, 64, seed=10 * step) for step in range(7)]
    for step, batch in enumerate(result):
        for x in batch:
            x["file_name"] = f"step{step}_{x['file_name']}"
    return result


class ListTrainer(Trainer):
    """Trains on `batches`, once."""

    batches: list[list[dict]] = []

    @classmethod
    def build_train_loader(cls, cfg):
        return cls.batches


def spoil_gradients(trainer, bad: int) -> None:
    weight = trainer.model.get_parameter("initial_queries.query_feats")
    weight.register_hook(lambda gradient: gradient * NAN if trainer.iter == bad else gradient)


def spoil_losses(trainer, bad: int) -> None:
    """Their gradients stay finite."""

    def add_inf(model, args, losses):
        return {name: x + INF if trainer.iter == bad else x for name, x in losses.items()}

    trainer.model.register_forward_hook(add_inf)


def spoil_costs(trainer, bad: int) -> None:
    layer = trainer.model.cascade.stages[0].cls_logits
    layer.register_forward_hook(lambda module, args, x: x * NAN if trainer.iter == bad else x)


def spoil_statistics(trainer, bad: int) -> None:
    """In front of a batch norm, whose running statistics would stay NaN for ever."""
    conv = trainer.model.mask_head.stages[0].convs[0]
    conv.register_forward_pre_hook(
        lambda module, args: (args[0] * NAN,) if trainer.iter == bad else None
    )


SPOIL = {1: spoil_gradients, 2: spoil_statistics, 4: spoil_costs, 5: spoil_losses}


def train(folder, data, limit: int, spoil=None) -> ListTrainer:
    torch.manual_seed(0)
    ListTrainer.batches = data
    cfg = tiny_cfg(
        MODEL__ROI_MASK_HEAD__NUM_CONV=1,
        SOLVER__SKIP_NONFINITE=limit,
        SOLVER__MAX_ITER=len(data),
        SOLVER__IMS_PER_BATCH=2,
        SOLVER__BASE_LR=1e-3,
        SOLVER__WARMUP_ITERS=0,
        SOLVER__STEPS=(),
        OUTPUT_DIR=str(folder),
    )
    trainer = ListTrainer(cfg)
    for bad, spoil_step in (spoil or {}).items():
        spoil_step(trainer, bad)
    trainer.train()
    return trainer


def state(trainer) -> dict[str, torch.Tensor]:
    moments = [x for state in trainer.optimizer.state.values() for x in state.values()]
    return trainer.model.state_dict() | {f"moment {i}": x for i, x in enumerate(moments)}


def test_skip_nonfinite_leaves_no_trace_of_bad_steps(tmp_path, capsys, untouched_logging):
    good = [batch for step, batch in enumerate(batches()) if step not in SPOIL]
    expected = state(train(tmp_path / "good", good, limit=0))
    trainer = train(tmp_path / "bad", batches(), 2, SPOIL)
    trained = state(trainer)
    assert trained.keys() == expected.keys()
    assert all(x.equal(trained[name]) for name, x in expected.items())
    said = [x for x in capsys.readouterr().out.splitlines() if "SKIP_NONFINITE" in x]
    reasons = ["the norm of the", "loss_mask_stage0", "stage 0, image 0", "loss_cls_stage0 is inf"]
    for step, number, reason, line in zip(SPOIL, (1, 2, 1, 2), reasons, said, strict=True):
        assert f"]: iteration {step}: {reason}" in line and "WARNING" in line
        assert f"left out as step {number} of at most 2 in a row" in line
        assert f"step{step}_random_0.png" in line and f"step{step}_random_1.png" in line
    assert trainer.scheduler.last_epoch == 7


@pytest.mark.parametrize(
    "limit, last, advice", [(0, 1, "a lower"), (1, 2, ".* 1 steps in a row were left out before")]
)
def test_skip_nonfinite_ends_the_run_with_one_step_more(tmp_path, limit, last, advice):
    spoil = {1: spoil_gradients, 2: spoil_gradients}
    line = f"iteration {last}: .*of initial_queries.query_feats; in images step{last}_.*; {advice}"
    with pytest.raises(FloatingPointError, match=line):
        train(tmp_path, batches(), limit, spoil)
    assert not (tmp_path / "model_final.pth").exists()


def test_run_keeps_its_last_checkpoint_finite_at_a_huge_rate(make_args, capsys, tmp_path):
    """The second step's losses are finite, its gradients are not."""
    opts = ("SOLVER.BASE_LR", 1e5, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 1)
    assert run(make_args(*opts)) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: iteration 1: the norm of the gradients is nan, first that of backbone." in line
    assert line.endswith("and the last checkpoint is as it was, model_0000000.pth")
    tag = tmp_path / "output" / "last_checkpoint"
    saved = torch.load(tag.with_name(tag.read_text()))
    assert all(value.isfinite().all() for value in saved["model"].values())
