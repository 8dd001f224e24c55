"""Half precision of products and convolutions: near float32, float32 where it matters, no NaN."""

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from queryinst.modeling import QueryInst
from queryinst.modeling.denoising import DenoisingQueries
from queryinst.modeling.postprocessing import postprocess
from queryinst.structures import PreciseBoxes
from queryinst.testing import random_batch, tiny_cfg

HALVES = [torch.bfloat16, torch.float16]
# Relative steps are 2^-8 and 2^-11; some twenty layers lie behind one another.
TOLERANCE = {torch.bfloat16: 0.08, torch.float16: 0.01}


@pytest.fixture
def model():
    """Boxes that stay near where they are, as a trained model's, lest levels and matches flip."""
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg())  # keeps all 18 pairs of query and class
    boxes = torch.rand(6, 4) * torch.tensor([0.6, 0.6, 0.3, 0.3]) + 0.2
    model.initial_queries.boxes_cxcywh_norm.data.copy_(boxes)
    for stage in model.cascade.stages:
        stage.box_deltas.weight.data *= 0.05
    return model


def losses_of(model, dtype=None, nums=(2, 3)):
    batch = random_batch(nums)
    with EventStorage(), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        return model.train()(batch)


@torch.no_grad()
def detections_of(model, dtype=None, do_postprocess=False):
    """All pairs of query and class, in one order for all precisions."""
    batch = random_batch((0, 0))
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        actual = model.eval().inference(batch, do_postprocess=do_postprocess)
    actual = [x["instances"] if do_postprocess else x for x in actual]
    return [x[(x.query_idx * 3 + x.pred_classes).argsort()] for x in actual]


@pytest.mark.parametrize("dtype", HALVES)
def test_forward_under_autocast_gives_float32_losses_and_gradients_that_are_near(model, dtype):
    exact, half = losses_of(model), losses_of(model, dtype)
    assert exact.keys() == half.keys()
    for name, loss in half.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=TOLERANCE[dtype]), name
    gradients = []
    for losses in (exact, half):
        model.zero_grad()
        sum(losses.values()).backward()
        actual = [p.grad for p in model.parameters() if p.grad is not None]
        assert {gradient.dtype for gradient in actual} == {torch.float32}
        gradients.append(torch.cat([gradient.flatten() for gradient in actual]))
    exact_gradient, half_gradient = gradients
    assert half_gradient.isfinite().all()
    assert torch.cosine_similarity(exact_gradient, half_gradient, dim=0) > 1 - 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_forward_under_autocast_gives_float32_losses_of_denoising_that_are_near(model, dtype):
    model.denoising = DenoisingQueries(num_groups=2, num_queries=4, noise=0.2, weight=1.0)
    results = []
    for precision in (None, dtype):
        torch.manual_seed(0)
        results.append(losses_of(model, precision))
    exact, half = results
    assert any("denoising" in name for name in exact)
    for name, loss in half.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=TOLERANCE[dtype]), name


@pytest.mark.parametrize("dtype", HALVES)
def test_inference_under_autocast_gives_float32_detections_that_are_near(model, dtype):
    for exact, half in zip(detections_of(model), detections_of(model, dtype)):
        assert len(exact) == len(half) == 18
        boxes, half_boxes = exact.pred_boxes.tensor, half.pred_boxes.tensor
        assert half_boxes.dtype == half.scores.dtype == half.pred_masks.dtype == torch.float32
        assert (boxes - half_boxes).abs().max() < 100 * TOLERANCE[dtype] / 8  # of 96 pixels
        assert (exact.scores - half.scores).abs().max() < TOLERANCE[dtype]
        assert (exact.pred_masks - half.pred_masks).abs().max() < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_inference_under_autocast_runs_layers_in_half_precision(model, dtype):
    seen = set()
    for module in (model.backbone.bottom_up.stem.conv1, model.cascade.stages[0].ffn_in):
        module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    detections_of(model, dtype)
    assert seen == {dtype}


@pytest.mark.parametrize("dtype", HALVES)
def test_inference_under_autocast_keeps_logits_apart_that_a_half_could_not_tell_apart(model, dtype):
    """Between 8192 and 16384 bfloat16 knows multiples of 64, float16 of 8."""
    model.cascade.stages[-1].cls_logits.bias.data = torch.tensor([1e4, 1e4 + 1, 1e4 + 2])
    logits = []
    head = model.cascade.stages[-1].cls_logits
    head.register_forward_hook(lambda module, args, output: logits.append(output))
    detections_of(model, dtype)
    assert logits[0].dtype == torch.float32
    assert len(logits[0].flatten().unique()) == logits[0].numel()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("logit", [-1e5, 1e5])
def test_forward_under_autocast_keeps_extreme_logits_and_boxes_finite(model, dtype, logit):
    """Scores at 0 and 1, and boxes of a million pixels: more than float16 can hold."""
    model.score_threshold = -1.0
    model.initial_queries.boxes_cxcywh_norm.data *= 1e4
    for stage in model.cascade.stages:
        stage.cls_logits.bias.data.fill_(logit)
        stage.box_deltas.bias.data.fill_(1e3)
    losses = losses_of(model, dtype)
    assert all(loss.isfinite() for loss in losses.values()), losses
    if dtype == torch.bfloat16:  # float16 needs a scaler, which leaves such a step out
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for actual in detections_of(model, dtype):
        assert actual.pred_boxes.tensor.abs().max() > 1e5
        for field in (actual.pred_boxes.tensor, actual.scores, actual.pred_masks):
            assert field.isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_forward_under_autocast_trains_images_without_instances(model, dtype):
    losses = losses_of(model, dtype, nums=(0, 0))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("dtype", HALVES)
def test_postprocess_does_not_see_autocast(dtype):
    torch.manual_seed(0)
    corners = torch.rand(20, 2) * 900
    instances = Instances((800, 1199))
    instances.pred_boxes = PreciseBoxes(torch.cat([corners, corners + torch.rand(20, 2) * 300], 1))
    instances.pred_masks = torch.rand(20, 1, 28, 28)
    exact = postprocess(instances, 427, 640)
    with torch.autocast("cpu", dtype):
        half = postprocess(instances, 427, 640)
    assert torch.equal(exact.pred_masks, half.pred_masks)
    assert torch.equal(exact.pred_boxes.tensor, half.pred_boxes.tensor)


def test_paste_masks_gets_float32_under_autocast(model):
    exact, half = detections_of(model, None, True), detections_of(model, torch.bfloat16, True)
    for a, b in zip(exact, half):
        assert (a.pred_masks != b.pred_masks).float().mean() < 0.02
