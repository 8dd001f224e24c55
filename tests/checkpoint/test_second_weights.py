"""Files of MMDetection with two sets of weights, as a training with an EMAHook leaves them."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from queryinst.checkpoint import QueryInstCheckpointer, convert_mmdet_state_dict
from queryinst.checkpoint.layouts import second_tensors_of
from queryinst.checkpoint.mmdet import to_mmdet_state_dict, twin_names

TAKEN = "two sets of weights"


def as_2(first, second):
    """MMCV registers each second value as a buffer of the model, without dots in its name."""
    twins = {f"ema_{name.replace('.', '_')}": value for name, value in second.items()}
    return {"meta": {"mmdet_version": "2.28.0"}, "state_dict": {**first, **twins}}


def as_3(first, second):
    """MMEngine keeps a copy of the whole model, as `module`, with the steps that it has seen."""
    copy = {"steps": torch.tensor(7), **{f"module.{n}": value for n, value in second.items()}}
    return {"meta": {"mmengine_version": "0.10.7"}, "state_dict": first, "ema_state_dict": copy}


def states(make_model):
    return [to_mmdet_state_dict(make_model(seed).state_dict()) for seed in (1, 2)]


def assert_is(model, expected):
    assert all(torch.equal(v, expected.state_dict()[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("layout", [as_2, as_3])
def test_load_takes_the_plain_keys_and_says_so(tmp_path, make_model, messages, layout):
    path, model = tmp_path / "epoch_12.pth", make_model(3).eval()
    torch.save(layout(*states(make_model)), path)
    logging.getLogger("queryinst.checkpoint.content").propagate = True
    QueryInstCheckpointer(model).load(str(path))
    assert_is(model, make_model(1))
    (line,) = messages(TAKEN)
    assert str(path) in line and "--ema takes these" in line
    assert ("keys 'ema_...'" if layout is as_2 else "'ema_state_dict'") in line


def test_load_says_nothing_of_one_set(tmp_path, make_model, messages):
    torch.save({"state_dict": states(make_model)[0]}, tmp_path / "a.pth")
    QueryInstCheckpointer(make_model(3).eval()).load(str(tmp_path / "a.pth"))
    assert messages(TAKEN) == []


def test_detectron2s_checkpointer_takes_the_plain_keys_too(tmp_path, make_model, messages):
    path, model = tmp_path / "bare.pth", make_model(3).eval()
    torch.save(as_2(*states(make_model))["state_dict"], path)
    DetectionCheckpointer(model).load(str(path))
    assert_is(model, make_model(1))
    assert len(messages(TAKEN)) == 1


@pytest.mark.parametrize("prefix", ["", "module."])
def test_convert_mmdet_state_dict_leaves_second_values_out(make_model, prefix):
    first, second = states(make_model)
    file_state = {prefix + name: v for name, v in as_2(first, second)["state_dict"].items()}
    converted, expected = convert_mmdet_state_dict(file_state), make_model(1).state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], value) for name, value in expected.items())


@pytest.mark.parametrize("layout", [as_2, as_3])
def test_second_tensors_of_takes_the_others(make_model, layout):
    first, second = states(make_model)
    taken = second_tensors_of(layout(first, second), "x.pth")
    assert taken.keys() == second.keys()
    assert all(torch.equal(taken[name], value) for name, value in second.items())


def test_second_tensors_of_takes_what_has_no_second_value_from_the_first(make_model):
    """MMCV's own hook averages parameters, but not the statistics of batch norms."""
    first, second = states(make_model)
    parameters = {n: v for n, v in second.items() if "running" not in n and "num_b" not in n}
    taken = second_tensors_of(as_2(first, parameters), "x.pth")
    assert taken.keys() == first.keys()
    for name, value in taken.items():
        assert torch.equal(value, parameters.get(name, first[name])), name


def test_second_tensors_of_refuses_a_file_with_one_set(make_model):
    with pytest.raises(ValueError, match="x.pth has one set of weights, .*leave out --ema"):
        second_tensors_of({"state_dict": states(make_model)[0]}, "x.pth")


def test_twin_names_are_pairs_that_both_exist():
    names = ["a.b", "ema_a_b", "ema_c_d", "e"]
    assert twin_names(names) == {"a.b": "ema_a_b"}


def test_a_second_value_without_a_first_stays_an_unknown_key(make_model):
    first, _ = states(make_model)
    with pytest.raises(KeyError, match="1 of .* match no rule, first 'ema_neck_other'"):
        convert_mmdet_state_dict({**first, "ema_neck_other": torch.zeros(1)})
