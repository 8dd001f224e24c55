"""MMDetection's names in a model's own load_state_dict, which checkpoint/ hooks into."""

import copy
import pickle

import pytest
import torch
from torch import nn

from queryinst.checkpoint.mmdet import to_mmdet_state_dict


def assert_same(state, expected):
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


@pytest.fixture
def state(make_model):
    return make_model(1).state_dict()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}])
def test_install_state_dict_hook_converts_mmdetections_names(make_model, state, options, training):
    model, theirs = make_model(2).train(training), to_mmdet_state_dict(state)
    names = list(theirs)
    result = model.load_state_dict(theirs, **options)
    assert result.missing_keys == result.unexpected_keys == []
    assert_same(model.state_dict(), state)
    assert list(theirs) == names, "the caller's state dict is as it was"


@pytest.mark.parametrize("strict", [False, True])
def test_install_state_dict_hook_makes_loading_strict(make_model, state, snapshot, strict):
    theirs = to_mmdet_state_dict(state)
    del theirs["roi_head.bbox_head.1.fc_reg.bias"]
    model = make_model(2)
    changed = snapshot(model)
    with pytest.raises(ValueError, match=r"1 missing keys \(cascade.stages.1.box_deltas.bias\)"):
        model.load_state_dict(theirs, strict=strict)
    theirs["neck.extra.weight"] = torch.zeros(1)
    with pytest.raises(KeyError, match="names: 1 of .* no rule, first 'neck.extra.weight'"):
        model.load_state_dict(theirs, strict=strict)
    assert not changed()


def test_install_state_dict_hook_reads_the_mode_and_the_allowed_keys(make_model, messages):
    theirs = to_mmdet_state_dict(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5).state_dict())
    model = make_model(2)
    model.load_state_dict(theirs)
    assert len(messages("a state dict in MMDetection's names has 5 classes")) == 1
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, the file has 5"):
        model.eval().load_state_dict(theirs)
    model.allow_unloaded = (r".*(cls|mask)_logits",)
    model.load_state_dict(theirs)
    assert len(messages("8 parameters are re-initialized")) == 1


@pytest.mark.parametrize("pickled", [False, True])
def test_install_state_dict_hook_goes_along_with_copies(make_model, state, snapshot, pickled):
    model = make_model(2)
    twin = pickle.loads(pickle.dumps(model)) if pickled else copy.deepcopy(model)
    changed = snapshot(model)
    twin.load_state_dict(to_mmdet_state_dict(state), strict=False)
    assert_same(twin.state_dict(), state)
    assert not changed()
    theirs = to_mmdet_state_dict(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5).state_dict())
    model.load_state_dict(theirs)
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, the file has 5"):
        twin.eval().load_state_dict(theirs)  # by the copy's mode, not the model's


@pytest.mark.parametrize("strict", [False, True])
def test_install_state_dict_hook_works_in_a_part_of_a_module(make_model, state, strict):
    model = make_model(2)
    whole = nn.ModuleDict({"detector": model, "other": nn.Linear(2, 2)})
    theirs = {f"detector.{name}": value for name, value in to_mmdet_state_dict(state).items()}
    theirs |= {"other.weight": torch.ones(2, 2), "other.bias": torch.ones(2)}
    result = whole.load_state_dict(theirs, strict=strict)
    assert result.missing_keys == result.unexpected_keys == []
    assert_same(model.state_dict(), state)
    assert torch.equal(whole["other"].weight, torch.ones(2, 2))


def test_install_state_dict_hook_leaves_other_state_dicts_alone(make_model, state):
    model = make_model(2)
    del state["cascade.stages.0.ffn_in.bias"]
    result = model.load_state_dict(state | {"extra": torch.zeros(1)}, strict=False)
    assert result.missing_keys == ["cascade.stages.0.ffn_in.bias"]
    assert result.unexpected_keys == ["extra"]
    assert torch.equal(
        model.state_dict()["initial_queries.query_feats"], state["initial_queries.query_feats"]
    )
    with pytest.raises(RuntimeError, match="cascade.stages.0.ffn_in.bias"):
        model.load_state_dict(state)
    assert model.load_state_dict({}, strict=False).unexpected_keys == []
