"""inference_only models, without the mask heads that training alone runs: they predict the same."""

import re

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.engine import setup_cfg
from queryinst.modeling import QueryInst
from queryinst.modeling.mask_head import DynamicMaskHead
from queryinst.testing import random_batch, tiny_cfg

KEPT = re.compile(r"mask_head\.stages\.2\..+")


def make_pair(**overrides) -> tuple[nn.Module, nn.Module]:
    """A full model of three stages with distinct scores, and the inference_only one of it."""
    keys = {"MODEL__QUERYINST__NUM_STAGES": 3} | overrides
    torch.manual_seed(0)
    full = QueryInst(tiny_cfg(**keys)).eval()
    for stage in full.cascade.stages:
        nn.init.normal_(stage.cls_logits.weight, std=1.0)
        stage.box_deltas.weight.data *= 0.05  # boxes stay in the image
    if full.mask_head is not None:
        nn.init.normal_(full.mask_head.stages[-1].mask_logits.weight, std=9.0)
    boxes = full.initial_queries.boxes_cxcywh_norm.data
    boxes.copy_(0.2 + 0.6 * torch.rand(boxes.shape))
    only = QueryInst(tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, **keys)).eval()
    state = full.state_dict()
    only.load_state_dict({name: state[name] for name in only.state_dict()}, strict=True)
    return full, only


@pytest.mark.parametrize("agnostic", [False, True])
@torch.no_grad()
def test_inference_of_inference_only_is_equal_to_the_last_bit(agnostic):
    full, only = make_pair(MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=agnostic)
    batch = random_batch((0,), 64, 96) + random_batch((0,), 50, 70, seed=1)
    for postprocess in (False, True):
        expected = full.inference(batch, postprocess)
        for actual, wanted in zip(only.inference(batch, postprocess), expected, strict=True):
            if postprocess:
                actual, wanted = actual["instances"], wanted["instances"]
            assert len(wanted) == 18 and len(wanted.pred_masks.unique()) > 1
            assert torch.equal(actual.pred_boxes.tensor, wanted.pred_boxes.tensor)
            for name in ("scores", "pred_classes", "query_idx", "pred_masks"):
                assert torch.equal(actual.get(name), wanted.get(name)), name


@torch.no_grad()
def test_forward_core_of_inference_only_is_equal_to_the_last_bit():
    full, only = make_pair()
    images = full.preprocess_image(random_batch((0, 0)))
    sizes = torch.tensor([list(size) for size in images.image_sizes])
    actual = only.forward_core(images.tensor, sizes)
    expected = full.forward_core(images.tensor, sizes)
    assert [tuple(x.shape) for x in expected][-1] == (2, 18, 28, 28)
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))


def test_inference_only_makes_the_last_head_alone(monkeypatch):
    made = []
    init = DynamicMaskHead.__init__

    def counting(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DynamicMaskHead, "__init__", counting)
    model = QueryInst(
        tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, MODEL__QUERYINST__NUM_STAGES=3)
    )
    assert made == [model.mask_head.stages[-1]]
    heads = [name for name in model.state_dict() if name.startswith("mask_head.")]
    assert heads and all(KEPT.fullmatch(name) for name in heads)


def test_make_inference_only_of_a_built_model():
    full, only = make_pair()
    full.make_inference_only()
    assert list(full.state_dict()) == list(only.state_dict())
    before = list(full.state_dict())
    full.make_inference_only()
    assert list(full.state_dict()) == before


@pytest.mark.parametrize("nums", [(2, 0), (0, 0)])
def test_inference_only_refuses_training_and_names_the_key(nums):
    _, only = make_pair()
    message = "this model is inference_only, .* set MODEL.QUERYINST.INFERENCE_ONLY False"
    with pytest.raises(ValueError, match=message) as error:
        only.train()
    assert "\n" not in str(error.value)
    only.training = True  # as a model that was just built
    with EventStorage(), pytest.raises(ValueError, match=message):
        only(random_batch(nums))


def test_inference_only_with_one_stage_lacks_nothing_and_trains():
    one = {"MODEL__QUERYINST__NUM_STAGES": 1}
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg(MODEL__QUERYINST__INFERENCE_ONLY=True, **one))
    assert list(model.state_dict()) == list(QueryInst(tiny_cfg(**one)).state_dict())
    with EventStorage():
        assert all(loss.isfinite() for loss in model(random_batch((2,))).values())


def test_inference_only_box_detector_lacks_nothing_and_trains():
    _, only = make_pair(MODEL__MASK_ON=False)
    only.make_inference_only()
    with EventStorage():
        assert all(loss.isfinite() for loss in only.train()(random_batch((2,))).values())


@pytest.mark.parametrize("only, millions", [(False, 172.7), (True, 117.4)])
def test_inference_only_has_fewer_parameters_at_full_size(only, millions):
    config = "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml"
    cfg = setup_cfg(config, ["MODEL.DEVICE", "meta", "MODEL.QUERYINST.INFERENCE_ONLY", only])
    with torch.device("meta"):
        model = QueryInst(cfg)
    num = sum(parameter.numel() for parameter in model.parameters())
    assert round(num / 1e6, 1) == millions
