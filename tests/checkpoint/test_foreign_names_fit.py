"""Files in MMDetection's names are held to the same rules as this project's own."""

import re

import pytest
import torch

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.checkpoint.mmdet import to_mmdet_state_dict


def save(model, path, bare=False, **changes):
    """As MMDetection saves, or a bare state dict; None drops a key."""
    state = to_mmdet_state_dict(model.state_dict()) | changes
    state = {name: value for name, value in state.items() if value is not None}
    torch.save(state if bare else {"meta": {"epoch": 36}, "state_dict": state}, path)
    return str(path)


def refused(model, path, match, snapshot, error=ValueError):
    changed = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        QueryInstCheckpointer(model).load(path)
    text = str(caught.value.args[0])
    assert "\n" not in text and text.startswith(f"MODEL.WEIGHTS {path}")
    assert not changed()


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_uses_every_foreign_tensor(make_model, tmp_path, messages, training, bare):
    source, model = make_model(1), make_model(2).train(training)
    path = save(source, tmp_path / "w.pth", bare)
    assert QueryInstCheckpointer(model).load(path) == {}
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert messages("") == [f"Loading weights from {path}"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "key, ours, theirs",
    [
        ("MODEL.QUERYINST.NUM_QUERIES", 6, 9),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 1),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 3),
        ("MODEL.QUERYINST.FFN_DIM", 32, 8),
        ("MODEL.QUERYINST.DYNAMIC_DIM", 4, 2),
        ("MODEL.QUERYINST.NUM_CLS_FCS", 1, 2),
        ("MODEL.QUERYINST.NUM_REG_FCS", 3, 2),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, 5),
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", 4, 2),
        ("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, 8),
        ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False, True),
        ("MODEL.RESNETS.DEPTH", 50, 101),
        ("MODEL.RESNETS.DEPTH", 50, 152),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, 4),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, 8),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 4, 8),
    ],
)
def test_match_state_dict_names_key_and_sizes_of_a_foreign_file(
    make_model, snapshot, tmp_path, key, ours, theirs, training
):
    path = save(make_model(1, **{key.replace(".", "__"): theirs}), tmp_path / "w.pth")
    said = f"does not fit the configuration: {key} is {ours}, the file has {theirs}; set the keys"
    refused(make_model(2).train(training), path, re.escape(said), snapshot)


@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_names_key_and_widths_of_a_foreign_file(
    make_model, snapshot, tmp_path, training
):
    wide = {"MODEL__QUERYINST__EMBED_DIM": 32, "MODEL__FPN__OUT_CHANNELS": 32}
    path = save(make_model(1, **wide), tmp_path / "w.pth")
    match = "MODEL.QUERYINST.EMBED_DIM is 16, the file has 32; set"
    refused(make_model(2).train(training), path, match, snapshot)


def test_match_state_dict_cannot_tell_the_heads_of_the_attention(make_model, tmp_path):
    path = save(make_model(1), tmp_path / "w.pth")
    QueryInstCheckpointer(make_model(2, MODEL__QUERYINST__NUM_HEADS=2).eval()).load(path)


def test_match_state_dict_loads_another_foreign_class_count_only_in_training(
    make_model, snapshot, tmp_path, messages
):
    path = save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5), tmp_path / "w.pth")
    match = "MODEL.ROI_HEADS.NUM_CLASSES is 3, the file has 5"
    refused(make_model(2).eval(), path, match, snapshot)
    QueryInstCheckpointer(make_model(2)).load(path)
    (line,) = messages("re-initialized")
    assert path in line and "these 4 layers are re-initialized: cascade.stages.0.cls_logits" in line


@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_refuses_missing_and_unexpected_foreign_keys(
    make_model, snapshot, tmp_path, training
):
    model = make_model(2).train(training)
    path = save(make_model(1), tmp_path / "w.pth", **{"neck.fpn_convs.1.conv.bias": None})
    match = r"1 missing keys \(backbone.fpn_output3.bias\)"
    refused(model, path, match, snapshot)
    more = {"neck.fpn_convs.1.conv.scale": torch.zeros(1)}
    path = save(make_model(1), tmp_path / "w.pth", **more)
    match = r"1 unexpected keys \(backbone.fpn_output3.scale\)"
    refused(model, path, match, snapshot)
    path = save(make_model(1), tmp_path / "w.pth", **{"ema.weight": torch.zeros(1)})
    refused(model, path, "no rule, first 'ema.weight'; only QueryInst", snapshot, KeyError)


@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_allows_some_missing_and_unexpected_foreign_keys(
    make_model, tmp_path, training
):
    source, model = make_model(1), make_model(2).train(training)
    counters = [n for n in to_mmdet_state_dict(source.state_dict()) if "num_batches" in n]
    changes = dict.fromkeys(counters) | {"backbone.fc.weight": torch.zeros(5, 8)}
    QueryInstCheckpointer(model).load(save(source, tmp_path / "w.pth", **changes))
    state = source.state_dict()
    for name, value in model.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, state[name])


def test_match_state_dict_refuses_a_foreign_box_detector_for_masks(make_model, snapshot, tmp_path):
    path = save(make_model(1, MODEL__MASK_ON=False), tmp_path / "w.pth")
    match = "MODEL.MASK_ON is True, the file has no mask heads"
    refused(make_model(2), path, match, snapshot)


def test_resume_or_load_refuses_an_incomplete_foreign_file(make_model, snapshot, tmp_path):
    save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5), tmp_path / "w.pth")
    (tmp_path / "last_checkpoint").write_text("w.pth")
    model = make_model(2)
    changed = snapshot(model)
    with pytest.raises(ValueError, match="w.pth .*NUM_CLASSES is 3, the file has 5"):
        QueryInstCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert not changed()
