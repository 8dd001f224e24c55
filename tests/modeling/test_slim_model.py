"""A model without the mask heads that training alone runs: equal predictions, and no training."""

import re

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.checkpoint.inference_only import to_inference_only
from queryinst.engine import setup_cfg
from queryinst.modeling.mask_head import DynamicMaskHead
from queryinst.testing import random_batch, tiny_cfg

KEPT = re.compile(r"mask_head\.stages\.2\..+")


def make_pair(**overrides) -> tuple[nn.Module, nn.Module]:
    """A full model of three stages, with scores apart from each other, and the slim one of it."""
    keys = {"MODEL__QUERYINST__NUM_STAGES": 3} | overrides
    torch.manual_seed(0)
    full = build_model(tiny_cfg(**keys)).eval()
    for stage in full.cascade.stages:
        nn.init.normal_(stage.cls_logits.weight, std=1.0)
    if full.mask_head is not None:
        nn.init.normal_(full.mask_head.last.mask_logits.weight, std=9.0)
    boxes = full.initial_queries.boxes_cxcywh_norm.data
    boxes.copy_(0.2 + 0.6 * torch.rand(boxes.shape))
    slim = build_model(tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, **keys)).eval()
    state = full.state_dict()
    slim.load_state_dict(
        to_inference_only(state) if slim.mask_head is not None else state, strict=True
    )
    return full, slim


@pytest.mark.parametrize("agnostic", [False, True])
@torch.no_grad()
def test_predictions_are_equal_to_the_last_bit(agnostic):
    full, slim = make_pair(MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=agnostic)
    batch = random_batch((0,), 64, 96) + random_batch((0,), 50, 70, seed=1)
    for postprocess in (False, True):
        expected = full.inference(batch, postprocess)
        for found, wanted in zip(slim.inference(batch, postprocess), expected, strict=True):
            if postprocess:
                found, wanted = found["instances"], wanted["instances"]
            assert len(wanted) == 18 and len(wanted.pred_masks.unique()) > 1
            assert torch.equal(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
            for name in ("scores", "pred_classes", "query_idx", "pred_masks"):
                assert torch.equal(found.get(name), wanted.get(name)), name


@torch.no_grad()
def test_the_core_in_tensors_is_equal_to_the_last_bit():
    full, slim = make_pair()
    images = full.preprocess_image(random_batch((0, 0)))
    sizes = torch.tensor([list(size) for size in images.image_sizes])
    found = slim.forward_core(images.tensor, sizes)
    expected = full.forward_core(images.tensor, sizes)
    assert [tuple(x.shape) for x in expected][-1] == (2, 18, 28, 28)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_only_the_last_head_is_ever_made(monkeypatch):
    made = []
    init = DynamicMaskHead.__init__

    def counting(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DynamicMaskHead, "__init__", counting)
    model = build_model(
        tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, MODEL__QUERYINST__NUM_STAGES=3)
    )
    assert made == [model.mask_head.last]
    heads = [name for name in model.state_dict() if name.startswith("mask_head.")]
    assert heads and all(KEPT.fullmatch(name) for name in heads)


def test_a_built_model_becomes_slim():
    full, slim = make_pair()
    full.make_slim()
    assert list(full.state_dict()) == list(slim.state_dict())
    before = list(full.state_dict())
    full.make_slim()
    assert list(full.state_dict()) == before


@pytest.mark.parametrize("num_matches", [2, 0])
def test_training_says_why_it_cannot(num_matches):
    _, slim = make_pair()
    match = (
        "has the last mask head alone, and training needs .* MODEL.QUERYINST.INFERENCE_ONLY False"
    )
    with EventStorage(), pytest.raises(ValueError, match=match) as error:
        slim.train()(random_batch((num_matches, 0)))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="this model is slim"):
        slim.mask_head.stages[0](torch.zeros(1, 16), torch.zeros(1, 16, 14, 14))


def test_one_stage_has_nothing_to_drop_and_trains():
    one = {"MODEL__QUERYINST__NUM_STAGES": 1}
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, **one))
    assert list(model.state_dict()) == list(build_model(tiny_cfg(**one)).state_dict())
    with EventStorage():
        assert all(loss.isfinite() for loss in model(random_batch((2,))).values())


def test_a_box_detector_has_nothing_to_drop_and_trains():
    _, slim = make_pair(MODEL__MASK_ON=False)
    slim.make_slim()
    with EventStorage():
        assert all(loss.isfinite() for loss in slim.train()(random_batch((2,))).values())


@pytest.mark.parametrize("slim, millions", [(False, 172.7), (True, 117.4)])
def test_parameters_of_the_full_size(slim, millions):
    config = "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml"
    cfg = setup_cfg(config, ["MODEL.DEVICE", "meta", "MODEL.QUERYINST.INFERENCE_ONLY", slim])
    with torch.device("meta"):
        model = build_model(cfg)
    num = sum(parameter.numel() for parameter in model.parameters())
    assert round(num / 1e6, 1) == millions
