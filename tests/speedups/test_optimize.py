"""The copy that predicts alone: the same detections, the original untouched."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

import queryinst
from queryinst.testing import random_batch, tiny_cfg


def make_model(**overrides) -> nn.Module:
    """Its batch norms have statistics."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**overrides)).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.normal_(std=0.1)
    return model


@pytest.mark.parametrize(
    "dtype, tolerance, speedups",
    [
        (torch.float64, 1e-9, ("auto",)),
        (torch.float64, 1e-9, ()),
        (torch.float64, 1e-9, ("fold_norms",)),
        (torch.float32, 1e-3, ("auto",)),
    ],
)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"MODEL__MASK_ON": False},
        {"MODEL__QUERYINST__INFERENCE_ONLY": True},
        {"MODEL__BACKBONE__FREEZE_AT": 0, "MODEL__ROI_MASK_HEAD__NORM": "GN",
         "MODEL__ROI_MASK_HEAD__CONV_DIM": 32, "MODEL__FPN__NORM": "BN"},
    ],
)  # fmt: skip
@torch.no_grad()
def test_optimize_for_inference_predicts_the_same(overrides, dtype, tolerance, speedups):
    model = make_model(MODEL__QUERYINST__SPEEDUPS=speedups, **overrides).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimized = queryinst.optimize_for_inference(model)
    images, sizes = torch.randn(2, 3, 64, 96, dtype=dtype), torch.tensor([[64, 96], [60, 90]])
    results = zip(optimized.forward_core(images, sizes), model.forward_core(images, sizes))
    for ours, expected in results:
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    assert model.state_dict().keys() == before.keys()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("speedups", [("auto",), ()])
@torch.no_grad()
def test_optimize_for_inference_leaves_no_batch_norm_and_no_mask_head_too_many(speedups):
    model = make_model(MODEL__QUERYINST__SPEEDUPS=speedups)
    optimized = queryinst.optimize_for_inference(model)
    assert not [m for m in optimized.modules() if "Norm2d" in type(m).__name__]
    assert not [name for name in optimized.state_dict() if name.startswith("mask_head.stages.0.")]
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    (output,), (expected,) = (m(random_batch((0,))) for m in (optimized, model))
    assert len(output["instances"]) == len(expected["instances"]) > 0
    assert output["instances"].pred_masks.any()
    again = queryinst.optimize_for_inference(optimized)
    assert again.state_dict().keys() == optimized.state_dict().keys()


def test_optimize_for_inference_gives_the_copy_weights_of_its_own():
    model = make_model()
    optimized = queryinst.optimize_for_inference(model)
    before = {name: value.clone() for name, value in optimized.state_dict().items()}
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.zero_()
    assert all(value.equal(before[name]) for name, value in optimized.state_dict().items())


def test_optimize_for_inference_gives_a_copy_that_refuses_training():
    optimized = queryinst.optimize_for_inference(make_model())
    with pytest.raises(
        ValueError, match="inference_only, without the mask heads that training needs"
    ):
        optimized.train()
    assert optimized.eval() is optimized and not optimized.training


def test_optimize_for_inference_refuses_a_model_in_training_mode():
    with pytest.raises(ValueError, match=r"in training mode; call model.eval\(\)"):
        queryinst.optimize_for_inference(make_model().train())
