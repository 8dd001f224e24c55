"""On a GPU the model computes what it computes on the CPU, with speed-ups and without."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from queryinst.engine.steps import StepTrainer
from queryinst.solver import build_optimizer
from queryinst.testing import random_batch, spread_queries, tiny_cfg

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BOTH = pytest.mark.parametrize("speedups", [(), ("auto",)], ids=["plain", "auto"])


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """TF32, which cuDNN convolves in by default, has only ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def build_pair(speedups):
    """The same weights on the CPU, plain, and on the GPU."""
    on_cpu = distinct_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=()))
    on_gpu = build_model(tiny_cfg(MODEL__DEVICE="cuda", MODEL__QUERYINST__SPEEDUPS=speedups))
    on_gpu.load_state_dict(copy.deepcopy(on_cpu.state_dict()))
    return on_cpu, on_gpu


def distinct_model(cfg):
    """One whose queries differ, so that rounding does not decide which of them is matched."""
    torch.manual_seed(0)
    model = build_model(cfg)
    spread_queries(model)
    return model


@BOTH
def test_inference_on_a_gpu_equals_the_cpus(speedups):
    on_cpu, on_gpu = build_pair(speedups)
    batch = [{**x, "height": 120, "width": 90} for x in random_batch((2, 3))]
    expected = [x["instances"] for x in on_cpu.eval()(batch)]
    actual = [x["instances"].to("cpu") for x in on_gpu.eval()(batch)]
    assert [len(x) for x in actual] == [len(x) for x in expected] and len(expected[0])
    for ours, theirs in zip(actual, expected):
        # Random weights give nearly equal scores, whose order rounding decides: compare by pair.
        order, other = (torch.argsort(x.query_idx * 3 + x.pred_classes) for x in (ours, theirs))
        ours, theirs = ours[order], theirs[other]
        torch.testing.assert_close(ours.query_idx, theirs.query_idx)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-4, atol=1e-2
        )
        assert (ours.pred_masks != theirs.pred_masks).float().mean() < 2e-3


@BOTH
def test_losses_and_gradients_on_a_gpu_equal_the_cpus(speedups):
    on_cpu, on_gpu = build_pair(speedups)
    batch = random_batch((2, 0, 3))
    with EventStorage():
        expected, actual = on_cpu(batch), on_gpu(batch)
    assert expected.keys() == actual.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(actual[name].cpu(), loss, rtol=1e-3, atol=1e-5)
    for losses in (expected, actual):
        sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in on_gpu.named_parameters() if p.grad is not None}
    for name, parameter in on_cpu.named_parameters():
        if parameter.grad is not None:
            difference = (gradients[name].cpu() - parameter.grad).norm()
            assert difference <= 2e-2 * parameter.grad.norm() + 1e-4, name


@torch.no_grad()
def test_forward_core_waits_for_no_gpu():
    on_gpu = build_pair(("auto",))[1].eval()
    images = on_gpu.preprocess_image(random_batch((0, 0)))
    sizes = torch.tensor([list(size) for size in images.image_sizes], device="cuda")
    on_gpu.forward_core(images.tensor, sizes)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        detections = on_gpu.forward_core(images.tensor, sizes)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert detections[0].isfinite().all()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@BOTH
def test_step_in_half_precision_on_a_gpu_learns(speedups, precision):
    cfg = tiny_cfg(
        MODEL__DEVICE="cuda",
        MODEL__QUERYINST__SPEEDUPS=speedups,
        SOLVER__AMP__ENABLED=True,
        SOLVER__AMP__PRECISION=precision,
        SOLVER__BASE_LR=1e-3,
        SOLVER__WARMUP_ITERS=0,
    )
    model = distinct_model(cfg)
    batch = random_batch((2, 1))
    with EventStorage():
        expected = total(model(batch))
        trainer = StepTrainer(model, [batch], build_optimizer(cfg, model), cfg)
        first = total(trainer.accumulate(batch))
        for _ in range(20):
            trainer.optimizer.zero_grad()
            trainer.accumulate(batch)
            trainer.after_backward()
            trainer.update()
        last = total(model(batch))
    # The coarser numbers can match other queries, so a loss of one stage may differ by more.
    assert abs(first - expected) <= 0.1 * expected
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert last < 0.9 * expected


def total(losses):
    return float(sum(losses.values()).detach())
