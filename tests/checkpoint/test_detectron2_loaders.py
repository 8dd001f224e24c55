"""MMDetection's files in Detectron2's own loaders: all of one is loaded, or nothing and it is said.

Those loaders know no other names. A bare state dict reaches the model's load_state_dict, where the
hook of `checkpoint.foreign_state_dicts` converts it.
"""

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from torch import nn

from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.testing import tiny_cfg

CLASS_LAYERS = ("cls_logits", "mask_logits")


def save(model, path, **changes):
    """A bare state dict in MMDetection's names; None drops a key."""
    state = to_mmdet_state_dict(model.state_dict()) | changes
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return str(path)


def assert_equal_models(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def refused(model, path, match, snapshot, error=ValueError):
    changed = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        DetectionCheckpointer(model).load(path)
    assert "\n" not in str(caught.value)
    assert not changed()


@pytest.fixture
def make_model(make_model):
    return make_model


@pytest.fixture
def warnings(caplog):
    return lambda: [r.getMessage() for r in caplog.records if r.levelname != "INFO"]


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
@pytest.mark.parametrize("training", [False, True])
def test_detection_checkpointer_loads_all_of_a_bare_state_dict(
    make_model, tmp_path, warnings, training, query
):
    model, other = make_model(1), make_model(2).train(training)
    path = save(model, tmp_path / "bare.pth")
    DetectionCheckpointer(other).load(path + query)
    assert_equal_models(other, model)
    assert [line for line in warnings() if "match" not in line] == []


def test_detection_checkpointer_supports_wrapped_models(make_model, tmp_path, without_gpu):
    model, other = make_model(1), make_model(2)
    state = to_mmdet_state_dict(model.state_dict())
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "bare.pth")
    DetectionCheckpointer(nn.DataParallel(other)).load(str(tmp_path / "bare.pth"))
    assert_equal_models(other, model)


def test_default_predictor_predicts_from_a_bare_state_dict(make_model, tmp_path):
    model = make_model(1)
    path = save(model, tmp_path / "bare.pth")
    predictor = DefaultPredictor(tiny_cfg(MODEL__WEIGHTS=path))
    assert_equal_models(predictor.model, model)
    assert "instances" in predictor(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "key, ours, theirs",
    [
        ("MODEL.QUERYINST.NUM_QUERIES", 6, 9),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 3),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 1),
        ("MODEL.RESNETS.DEPTH", 50, 101),
    ],
)
def test_detection_checkpointer_refuses_another_model(
    make_model, snapshot, tmp_path, training, key, ours, theirs
):
    path = save(make_model(1, **{key.replace(".", "__"): theirs}), tmp_path / "bare.pth")
    match = f"MMDetection's names does not fit .*: {key} is {ours}, the file has {theirs}; set"
    refused(make_model(2).train(training), path, match, snapshot)


@pytest.mark.parametrize("training", [False, True])
def test_detection_checkpointer_refuses_a_missing_key(make_model, snapshot, tmp_path, training):
    gone = {"roi_head.bbox_head.1.fc_reg.bias": None}
    path = save(make_model(1), tmp_path / "bare.pth", **gone)
    match = r"1 missing keys \(cascade.stages.1.box_deltas.bias\)"
    refused(make_model(2).train(training), path, match, snapshot)


@pytest.mark.parametrize("training", [False, True])
def test_detection_checkpointer_refuses_an_unexpected_key(make_model, snapshot, tmp_path, training):
    model = make_model(2).train(training)
    path = save(make_model(1), tmp_path / "bare.pth", **{"neck.extra.weight": torch.zeros(1)})
    refused(model, path, "names: 1 of .* no rule, first 'neck.extra.weight'", snapshot, KeyError)
    more = {"roi_head.bbox_head.1.reg_fcs.9.weight": torch.zeros(1)}
    path = save(make_model(1), tmp_path / "bare.pth", **more)
    match = r"1 unexpected keys \(cascade.stages.1.reg_fcs.3.linear.weight\); name other"
    refused(model, path, match, snapshot)


def test_detection_checkpointer_loads_another_class_count_only_in_training(
    make_model, snapshot, tmp_path, messages
):
    source = make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5)
    path = save(source, tmp_path / "bare.pth")
    model = make_model(2)
    match = "MODEL.ROI_HEADS.NUM_CLASSES is 3, the file has 5"
    refused(model.eval(), path, match, snapshot)
    changed = snapshot(model)
    DetectionCheckpointer(model.train()).load(path)
    kept = set(model.state_dict()) - changed()
    assert {name.split(".")[-2] for name in kept} == set(CLASS_LAYERS) and len(kept) == 8
    state = source.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items() if n not in kept)


def test_detection_checkpointer_follows_allow_unloaded(make_model, snapshot, tmp_path):
    gone = {"roi_head.bbox_head.1.fc_reg.bias": None}
    path = save(make_model(1), tmp_path / "bare.pth", **gone)
    model = make_model(2)
    model.allow_unloaded = (r"cascade\.stages\.1\.box_deltas",)
    changed = snapshot(model)
    DetectionCheckpointer(model).load(path)
    assert set(model.state_dict()) - changed() == {"cascade.stages.1.box_deltas.bias"}


def test_detection_checkpointer_loads_the_part_of_an_inference_only_model(make_model, tmp_path):
    source, model = make_model(1), make_model(2, MODEL__QUERYINST__INFERENCE_ONLY=True).eval()
    DetectionCheckpointer(model).load(save(source, tmp_path / "bare.pth"))
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_detection_checkpointer_refuses_another_architecture(make_model, snapshot, tmp_path):
    state = {"backbone.layer1.0.conv1.weight": 1, "rpn_head.rpn_conv.weight": 1}
    torch.save({name: torch.zeros(value) for name, value in state.items()}, tmp_path / "bare.pth")
    match = "no rule, first 'rpn_head.rpn_conv.weight'; only QueryInst"
    refused(make_model(2), str(tmp_path / "bare.pth"), match, snapshot, KeyError)


@pytest.mark.parametrize("training", [False, True])
def test_detection_checkpointer_refuses_a_whole_file_itself(
    make_model, snapshot, tmp_path, training
):
    state = to_mmdet_state_dict(make_model(1).state_dict())
    torch.save({"meta": {"epoch": 36}, "state_dict": state}, tmp_path / "whole.pth")
    match = "Unsupported type found in checkpoint! meta"
    refused(make_model(2).train(training), str(tmp_path / "whole.pth"), match, snapshot)
