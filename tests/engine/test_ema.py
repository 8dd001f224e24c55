import math

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

import queryinst
from queryinst.convert import convert_checkpoint
from queryinst.engine import Trainer, main, setup_cfg
from queryinst.engine.ema import WeightAverage
from queryinst.engine.predictor import cfg_from_checkpoint

EMA = ("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.6)


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def averages(states, limit):
    """By hand, in float64: the n-th state keeps min(limit, n / (9 + n)) of the average before."""
    result = {name: value.double() for name, value in states[0].items()}
    for n, state in enumerate(states[1:], start=2):
        decay = min(limit, n / (9 + n))
        for name, value in state.items():
            is_count = name.endswith("num_batches_tracked")
            result[name] = value if is_count else decay * result[name] + (1 - decay) * value
    return result


def assert_near(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.999])
def test_weight_average_is_that_by_hand_with_statistics_and_counters(limit):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model, optimizer, limit)
    states = []
    for step in range(12):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        if step != 3:  # a step that is left out
            optimizer.step()
            states.append(copy_of(model))
    assert average.state_dict()["num_averaged"] == 11
    assert_near(average.model.state_dict(), averages(states, limit))
    assert not any(x.requires_grad for x in average.model.parameters())
    assert model[1].num_batches_tracked == 12


def test_weight_average_does_not_count_a_step_that_overflows():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model, optimizer, 0.9)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert average.state_dict()["num_averaged"] == 2


def test_weight_average_begins_with_the_weights_that_are_loaded():
    model = nn.Linear(2, 1)
    average = WeightAverage(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.9)
    nn.init.constant_(model.weight, 3.0)
    average.start_anew()
    assert (average.model.weight == 3).all()


@pytest.mark.parametrize(
    "state, said",
    [({"num_averaged": 1}, "no state dict"), ({"num_averaged": -1, "trained": {}}, "-1; it must")],
)
def test_weight_average_refuses_another_state(state, said):
    model = nn.Linear(2, 1)
    average = WeightAverage(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.9)
    with pytest.raises(ValueError, match=said):
        average.load_state_dict(state)


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A training with an average: its folder, and the weights behind each step."""
    folder = tmp_path_factory.mktemp("ema")
    states = []
    with tiny_run(folder) as make, pytest.MonkeyPatch.context() as patch:
        original = Trainer.run_step

        def run_step(self):
            original(self)
            states.append(copy_of(self.model))

        patch.setattr(Trainer, "run_step", run_step)
        schedule = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 0.01)
        test = ("DATASETS.TEST", "('tiny_val',)", "TEST.EVAL_PERIOD", 2)
        main(make(*EMA, *schedule, *test, "SOLVER.ACCUMULATE_STEPS", 2))
    return folder / "output", states


@pytest.mark.parametrize("name, num", [("model_final", 4), ("model_0000001", 2)])
def test_a_checkpoint_has_the_average_as_model_and_what_goes_on_as_ema(run, name, num):
    output, states = run
    checkpoint = torch.load(output / f"{name}.pth", weights_only=True)
    assert_near(checkpoint["model"], averages(states[:num], 0.6))
    assert checkpoint["ema"]["num_averaged"] == num
    assert_near(checkpoint["ema"]["trained"], states[num - 1])


def test_the_best_model_is_the_average_alone(run):
    output, states = run
    best = torch.load(output / "model_best.pth", weights_only=True)
    assert "ema" not in best and "trainer" not in best
    known = [averages(states[:num], 0.6) for num in (2, 4)]
    name = "mask_head.stages.1.mask_logits.weight"
    assert any(torch.allclose(best["model"][name].double(), x[name]) for x in known)


def test_a_checkpoint_with_ema_loads_everywhere_as_the_average(run, tmp_path):
    path = run[0] / "model_0000001.pth"
    expected = torch.load(path, weights_only=True)["model"]
    loaded = queryinst.load(path, device="cpu").backend.model
    feats = "initial_queries.query_feats"
    assert torch.equal(loaded.state_dict()[feats], expected[feats])
    plain = build_model(cfg_from_checkpoint(str(path)))
    DetectionCheckpointer(plain).load(str(path))
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in expected.items())
    for ema in (False, True):
        done = convert_checkpoint(path, tmp_path / "slim.pth", ema=ema, inference_only=True)
        assert "the averages of SOLVER.EMA are taken" in " ".join(done.notes)
        converted = torch.load(tmp_path / "slim.pth", weights_only=True)
        assert "ema" not in converted
        assert all(torch.equal(value, expected[name]) for name, value in converted["model"].items())


def resumed(make_args, source, target, *opts):
    """The trainer of a run that resumes from a periodic checkpoint, before its first step."""
    target.mkdir(parents=True)
    (target / "model_0000001.pth").symlink_to(source / "model_0000001.pth")
    (target / "last_checkpoint").write_text("model_0000001.pth")
    args = make_args("SOLVER.MAX_ITER", 4, *opts, "OUTPUT_DIR", target)
    trainer = Trainer(setup_cfg(args.config_file, args.opts))
    trainer.resume_or_load(resume=True)
    return trainer


def test_resume_without_average_goes_on_with_what_was_trained(run, make_args, tmp_path):
    output, states = run
    trainer = resumed(make_args, output, tmp_path / "off")
    assert_near(trainer.model.state_dict(), states[1])
    assert trainer.evaluated_model is trainer.model and trainer.start_iter == 2


def test_resume_begins_an_average_that_the_checkpoint_lacks(run, make_args, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    checkpoint = torch.load(run[0] / "model_0000001.pth", weights_only=True)
    del checkpoint["ema"]
    torch.save(checkpoint, plain / "model_0000001.pth")
    trainer = resumed(make_args, plain, tmp_path / "on", *EMA)
    assert_near(trainer.evaluated_model.state_dict(), checkpoint["model"])
    assert trainer.checkpointer.checkpointables["ema"].state_dict()["num_averaged"] == 0
