"""Models in half precision, with quantized layers, and under a trace."""

import copy
import warnings

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from torch import nn

from queryinst import QueryInst
from queryinst.testing import random_batch, spread_queries, tiny_cfg


def make(speedups=()) -> QueryInst:
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=speedups)).eval()
    spread_queries(model)
    return model


def by_pair(instances) -> dict:
    """Scores, boxes and mask scores of one image by query and class."""
    boxes, masks = instances.pred_boxes.tensor, instances.pred_masks[:, 0]
    pairs = zip(instances.query_idx.tolist(), instances.pred_classes.tolist())
    return dict(zip(pairs, zip(instances.scores, boxes, masks)))


@torch.no_grad()
def check_near(actual: QueryInst, expected: QueryInst, atol: float, share: float = 1.0) -> None:
    """Whether scores and masks of this share of detections differ by `atol`, boxes by 100 times."""
    batch = random_batch((0, 0))
    results = (m.inference(batch, do_postprocess=False) for m in (actual, expected))
    for ours, theirs in zip(*map(list, results), strict=True):
        ours, theirs = by_pair(ours), by_pair(theirs)
        assert ours.keys() == theirs.keys() and len(ours) > 10
        for index, size in enumerate((1, 100, 1)):
            errors = [(ours[pair][index] - theirs[pair][index]).abs().max() for pair in ours]
            assert {ours[pair][index].dtype for pair in ours} == {torch.float32}
            assert torch.stack(errors).quantile(share) <= atol * size


@pytest.mark.parametrize("speedups", [(), ("auto",)])
@pytest.mark.parametrize("dtype, atol", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_and_bfloat16_predict_what_float32_does(speedups, dtype, atol):
    model = make(speedups)
    lower = copy.deepcopy(model).to(dtype)
    assert {p.dtype for p in lower.parameters()} == {dtype}
    check_near(lower, model, atol)


@pytest.mark.filterwarnings("ignore:.*(torch.ao.quantization|quantized tensor).*")  # of torch
@pytest.mark.parametrize("speedups", [(), ("auto",)])
def test_quantize_dynamic_predicts_what_float32_does(speedups):
    model = make(speedups)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    head = quantized.cascade.stages[0]
    assert not isinstance(head.cls_logits, nn.Linear) and isinstance(
        model.cascade.stages[0].cls_logits, nn.Linear
    )
    check_near(quantized, model, 0.1, share=0.5)


def test_tracing_the_whole_model_is_refused_and_names_the_export():
    model = make()
    image = random_batch((0,))[0]["image"]
    for function in (None, lambda m, x: m.inference(x, do_postprocess=False)):
        adapter = TracingAdapter(model, [{"image": image}], function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match="queryinst.export.export"):
                torch.jit.trace(adapter, (image,))
    with torch.no_grad():
        assert len(model.inference([{"image": image}], do_postprocess=False)) == 1
