"""Mixed precision by key: what runs where, what is refused, and what a run leaves behind."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.engine import Trainer, amp, evaluate
from queryinst.engine.predictor import Predictor
from queryinst.engine.steps import StepTrainer
from queryinst.testing import tiny_cfg

BF16 = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bf16")


@pytest.fixture
def cpu_flags(monkeypatch, tmp_path):
    """A function that makes the processor have these flags, as its system's file says it."""

    def set_to(text):
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(amp, "_CPUINFO", path)
        amp.cpu_has_bf16.cache_clear()

    yield set_to
    amp.cpu_has_bf16.cache_clear()


@pytest.fixture
def seen_dtypes(monkeypatch):
    """What a layer in the middle of every model that is built from now on returns."""
    seen = []
    build_model = Trainer.build_model

    def build(cls, cfg):
        model = build_model(cfg)
        layer = model.cascade.stages[0].ffn_in
        layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(build))
    return seen


@pytest.mark.parametrize(
    "text, expected",
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni\n", False),
        ("model name\t: bf16 in the name counts nothing\nFeatures\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_the_processor_is_asked_for_its_instructions(cpu_flags, text, expected):
    cpu_flags(text)
    assert amp.cpu_has_bf16() is expected


@pytest.mark.parametrize("has", [True, False])
def test_elsewhere_than_on_linux_torch_is_asked(cpu_flags, monkeypatch, has):
    cpu_flags(None)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert amp.cpu_has_bf16() is has


@pytest.mark.parametrize("has, times", [(True, 0), (False, 1)])
def test_bf16_that_is_emulated_is_warned_of_once(cpu_flags, caplog, monkeypatch, has, times):
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    cpu_flags(f"flags : {'amx_bf16' if has else 'avx2'}")
    cfg = tiny_cfg(TEST__PRECISION="bf16")
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        for _ in range(3):
            amp.check_inference_precision(cfg)
    said = [x.getMessage() for x in caplog.records if "no instructions for it" in x.getMessage()]
    assert len(said) == times and all(x.startswith("TEST.PRECISION is bf16") for x in said)


def test_without_mixed_precision_an_autocast_of_the_callers_stays_in_force():
    cfg = tiny_cfg()
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with amp.inference_autocast(cfg), amp.training_autocast(cfg):
            assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_precision_of_training_counts_if_it_is_enabled(precision):
    keys = {"SOLVER__AMP__PRECISION": precision}
    assert amp.training_precision(tiny_cfg(**keys)) == "fp32"
    assert amp.training_precision(tiny_cfg(**keys, SOLVER__AMP__ENABLED=True)) == precision


def test_training_in_bf16_on_the_cpu(make_cfg, seen_dtypes, tmp_path):
    trainer = Trainer(make_cfg(*BF16))
    before = trainer.model.cascade.stages[0].ffn_in.weight.detach().clone()
    trainer.train()
    assert seen_dtypes == [torch.bfloat16] * 2
    after = trainer.model.cascade.stages[0].ffn_in.weight
    assert not torch.equal(before, after) and after.isfinite().all()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    state = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    moments = [
        x["exp_avg"].dtype for x in state["trainer"]["_trainer"]["optimizer"]["state"].values()
    ]
    assert set(moments) == {torch.float32}
    assert "grad_scaler" not in state["trainer"]["_trainer"]


def test_evaluation_has_a_precision_of_its_own(make_cfg, seen_dtypes, tmp_path):
    trainer = Trainer(make_cfg("SOLVER.MAX_ITER", "1"))
    trainer.train()
    weights = ("MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth"))
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen_dtypes.clear()
        opts = ("DATASETS.TEST", "('tiny_val',)", *weights, "TEST.PRECISION", precision)
        results = evaluate(make_cfg(*opts))
        assert set(seen_dtypes) == {dtype} and "segm" in results["tiny_val"]


def test_prediction_in_bf16(tmp_path):
    cfg = tiny_cfg()
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    QueryInstCheckpointer(model, str(tmp_path), meta=build_meta(cfg, None)).save("model")
    path = str(tmp_path / "model.pth")
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    predictor = Predictor.from_checkpoint(path, ["TEST.PRECISION", "bf16"])
    seen = []
    layer = predictor.model.cascade.stages[0].ffn_in
    layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    found = predictor(image)["instances"]
    assert seen == [torch.bfloat16]
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    with pytest.raises(ValueError, match="fp16 needs a GPU.*set TEST.PRECISION 'bf16' or 'fp32'"):
        Predictor.from_checkpoint(path, ["TEST.PRECISION", "fp16"])


class OneWeight(nn.Module):
    """A loss of weight times input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x):
        return {"loss": (self.weight * x).sum()}


@pytest.fixture
def make_steps(monkeypatch):
    """A StepTrainer in fp16, which a check refuses for the CPU, over these inputs."""
    monkeypatch.setattr(StepTrainer, "_write_metrics", lambda *args: None)

    def make(*inputs):
        model = OneWeight()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        cfg = tiny_cfg(SOLVER__AMP__ENABLED=True, SOLVER__AMP__PRECISION="fp16")
        return StepTrainer(model, [torch.tensor([float(x)]) for x in inputs], optimizer, cfg)

    return make


def test_what_comes_before_a_step_sees_gradients_that_are_not_scaled(make_steps):
    steps = make_steps(3.0)
    seen = []
    steps.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: seen.append(steps.model.weight.grad.item())
    )
    steps.run_step()
    assert steps.grad_scaler.get_scale() > 1 and seen == [3.0]
    assert steps.model.weight.item() == -2.0


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(make_steps):
    steps = make_steps(1e38, 3.0)
    scale = steps.grad_scaler.get_scale()
    steps.run_step()
    assert steps.model.weight.item() == 1.0 and steps.grad_scaler.get_scale() == scale / 2
    steps.run_step()
    assert steps.model.weight.item() == -2.0


def test_the_scale_is_resumed(make_steps):
    steps = make_steps(1e38)
    steps.run_step()
    state = steps.state_dict()
    resumed = make_steps()
    resumed.load_state_dict(state)
    assert resumed.grad_scaler.get_scale() == steps.grad_scaler.get_scale() == 2**15


def test_a_run_may_change_its_precision_when_it_resumes(make_steps):
    scaled = make_steps()
    cfg = tiny_cfg(SOLVER__AMP__ENABLED=True, SOLVER__AMP__PRECISION="bf16")
    plain = StepTrainer(scaled.model, [], scaled.optimizer, cfg)
    assert plain.grad_scaler is None
    plain.load_state_dict(scaled.state_dict())
    scaled.load_state_dict(plain.state_dict())
    assert scaled.grad_scaler.get_scale() == 2**16
