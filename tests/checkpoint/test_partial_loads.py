"""Which incomplete loads are allowed, that each is one log line, and that all others are errors."""

import re

import pytest
import torch

from queryinst.checkpoint import QueryInstCheckpointer

CLASS_LAYERS = [
    "cascade.stages.0.cls_logits",
    "cascade.stages.1.cls_logits",
    "mask_head.stages.0.mask_logits",
    "mask_head.stages.1.mask_logits",
]


def save(model, path, **changes):
    torch.save({"model": model.state_dict()} | changes, path)
    return str(path)


def refused(model, path, match, snapshot):
    """Assert one line, and that the model is as it was."""
    changed = snapshot(model)
    with pytest.raises(ValueError, match=match) as error:
        QueryInstCheckpointer(model).load(path)
    assert "\n" not in str(error.value) and path in str(error.value)
    assert not changed()


@pytest.mark.parametrize("num_classes", [1, 5])
def test_match_state_dict_reinitializes_the_layers_of_another_class_count(
    make_model, snapshot, tmp_path, messages, num_classes
):
    path = save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=num_classes), tmp_path / "w.pth")
    model = make_model(2)
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(path)
    kept = set(model.state_dict()) - changed()
    assert kept == {f"{layer}.{leaf}" for layer in CLASS_LAYERS for leaf in ("weight", "bias")}
    assert messages("classes") == [
        f"MODEL.WEIGHTS {path} has {num_classes} classes, MODEL.ROI_HEADS.NUM_CLASSES is 3: these"
        f" 4 layers are re-initialized: {', '.join(CLASS_LAYERS)}"
    ]


def test_match_state_dict_keeps_class_agnostic_masks_of_another_class_count(
    make_model, snapshot, tmp_path
):
    agnostic = {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}
    path = save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5, **agnostic), tmp_path / "w.pth")
    model = make_model(2, **agnostic)
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(path)
    kept = {name.rpartition(".")[0] for name in set(model.state_dict()) - changed()}
    assert kept == set(CLASS_LAYERS[:2])


def test_match_state_dict_refuses_another_class_count_in_evaluation(make_model, snapshot, tmp_path):
    path = save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5), tmp_path / "w.pth")
    match = "MODEL.ROI_HEADS.NUM_CLASSES is 3, the file has 5"
    refused(make_model(2).eval(), path, match, snapshot)


def test_match_state_dict_refuses_another_class_count_in_one_stage(make_model, snapshot, tmp_path):
    model = make_model(1)
    state = make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5).state_dict()
    state |= {n: v for n, v in model.state_dict().items() if "stages.1.cls_logits" in n}
    path = tmp_path / "w.pth"
    torch.save(state, path)
    refused(make_model(2), str(path), "NUM_CLASSES is 3, the file has 5", snapshot)


def test_match_state_dict_refuses_class_agnostic_masks_for_class_specific_ones(
    make_model, snapshot, tmp_path
):
    path = save(make_model(1, MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=True), tmp_path / "w.pth")
    match = "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK is False, the file has True"
    refused(make_model(2), path, match, snapshot)


@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_leaves_masks_out_without_mask_head(
    make_model, tmp_path, messages, training
):
    source = make_model(1)
    path = save(source, tmp_path / "w.pth")
    model = make_model(2, MODEL__MASK_ON=False).train(training)
    QueryInstCheckpointer(model).load(path)
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    unused = sum(name.startswith("mask_head.") for name in state)
    assert len(messages("MODEL.MASK_ON is False")) == 1
    assert f"its {unused} keys of mask_head are not loaded" in messages("MASK_ON")[0]


def test_match_state_dict_leaves_masks_out_and_changes_classes_at_once(
    make_model, tmp_path, messages
):
    path = save(make_model(1, MODEL__ROI_HEADS__NUM_CLASSES=5), tmp_path / "w.pth")
    QueryInstCheckpointer(make_model(2, MODEL__MASK_ON=False)).load(path)
    assert len(messages("not loaded")) == len(messages("2 layers are re-initialized")) == 1


def test_match_state_dict_refuses_missing_masks(make_model, snapshot, tmp_path):
    path = save(make_model(1, MODEL__MASK_ON=False), tmp_path / "w.pth")
    match = "MODEL.MASK_ON is True, the file has no mask heads"
    refused(make_model(2), path, match, snapshot)


@pytest.mark.parametrize("training", [False, True])
def test_match_state_dict_follows_allow_unloaded(
    make_model, snapshot, tmp_path, messages, training
):
    source = make_model(1)
    state = source.state_dict()
    gone = [name for name in state if name.startswith("cascade.stages.1.reg_fcs.2.")]
    other_shape = "initial_queries.query_feats"
    for name in gone:
        del state[name]
    state[other_shape] = torch.zeros(9, 16)
    torch.save(state, tmp_path / "w.pth")
    model = make_model(2).train(training)
    model.allow_unloaded = (r"cascade\.stages\.\d\.reg_fcs\.2", "initial_queries.query_feats$")
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert set(model.state_dict()) - changed() == {*gone, other_shape}
    (line,) = messages("ALLOW_UNLOADED")
    assert all(name in line for name in [*gone, other_shape]) and "4 parameters" in line


def test_match_state_dict_matches_patterns_from_the_start_of_the_name(
    make_model, snapshot, tmp_path
):
    state = make_model(1).state_dict()
    del state["cascade.stages.1.box_deltas.bias"]
    torch.save(state, tmp_path / "w.pth")
    model = make_model(2)
    model.allow_unloaded = ("box_deltas",)
    match = r"1 missing keys \(cascade.stages.1.box_deltas.bias\)"
    refused(model, str(tmp_path / "w.pth"), match, snapshot)


def test_match_state_dict_refuses_an_invalid_pattern(make_model, tmp_path):
    path = save(make_model(1), tmp_path / "w.pth")
    model = make_model(2)
    model.allow_unloaded = ("(",)
    with pytest.raises(ValueError, match=r"MODEL.QUERYINST.ALLOW_UNLOADED \('\(',\)"):
        QueryInstCheckpointer(model).load(path)


def test_match_state_dict_allows_missing_and_unexpected_counters(make_model, tmp_path):
    source, model = make_model(1), make_model(2).eval()
    state = source.state_dict()
    state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    state |= {"pixel_mean": torch.zeros(3, 1, 1), "backbone.fpn_lateral2.num_batches_tracked": 0}
    state["backbone.fpn_lateral2.num_batches_tracked"] = torch.zeros(())
    state["backbone.bottom_up.fc.weight"] = torch.zeros(5, 8)
    torch.save(state, tmp_path / "w.pth")
    QueryInstCheckpointer(model).load(str(tmp_path / "w.pth"))
    for name, value in model.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, state[name])


@pytest.mark.parametrize(
    "key, ours, theirs",
    [
        ("MODEL.QUERYINST.NUM_QUERIES", 6, 9),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 1),
        ("MODEL.QUERYINST.NUM_STAGES", 2, 3),
        ("MODEL.QUERYINST.FFN_DIM", 32, 8),
        ("MODEL.QUERYINST.DYNAMIC_DIM", 4, 2),
        ("MODEL.QUERYINST.NUM_CLS_FCS", 1, 0),
        ("MODEL.QUERYINST.NUM_REG_FCS", 3, 4),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, 5),
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", 4, 2),
        ("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, 8),
    ],
)
def test_match_state_dict_names_key_and_sizes(make_model, snapshot, tmp_path, key, ours, theirs):
    path = save(make_model(1, **{key.replace(".", "__"): theirs}), tmp_path / "w.pth")
    match = re.escape(f"does not fit the configuration: {key} is {ours}, the file has {theirs};")
    refused(make_model(2), path, match, snapshot)


def test_match_state_dict_names_key_and_widths(make_model, snapshot, tmp_path):
    wide = {"MODEL__QUERYINST__EMBED_DIM": 32, "MODEL__FPN__OUT_CHANNELS": 32}
    path = save(make_model(1, **wide), tmp_path / "w.pth")
    match = "MODEL.QUERYINST.EMBED_DIM is 16, the file has 32; set"
    refused(make_model(2), path, match, snapshot)


def test_match_state_dict_names_several_differences_at_once(make_model, snapshot, tmp_path):
    other = {"MODEL__QUERYINST__NUM_QUERIES": 9, "MODEL__ROI_HEADS__NUM_CLASSES": 5}
    path = save(make_model(1, **other), tmp_path / "w.pth")
    match = "NUM_QUERIES is 6, the file has 9; MODEL.ROI_HEADS.NUM_CLASSES is 3, the file has 5"
    refused(make_model(2), path, match, snapshot)


def test_match_state_dict_counts_and_names_missing_unexpected_and_mismatched_keys(
    make_model, snapshot, tmp_path
):
    state = make_model(1).state_dict()
    for number in range(4):
        state[f"extra.{number}"] = torch.zeros(1)
    del state["initial_queries.boxes_cxcywh_norm"]
    state["backbone.fpn_output2.bias"] = torch.zeros(15)
    state["backbone.fpn_output3.bias"] = torch.zeros(16, dtype=torch.int64)
    torch.save(state, tmp_path / "w.pth")
    match = (
        r"1 missing keys \(initial_queries.boxes_cxcywh_norm\),"
        r" 4 unexpected keys \(first extra.0, extra.1, extra.2\),"
        r" 2 mismatched keys \(first backbone.fpn_output2.bias, \(15,\) float32 in the"
        r" file, \(16,\) float32 in the model\); name other weights"
    )
    refused(make_model(2), str(tmp_path / "w.pth"), match, snapshot)


def test_match_state_dict_refuses_another_architecture(make_model, snapshot, tmp_path):
    state = {n: v for n, v in make_model(1).state_dict().items() if n.startswith("backbone.")}
    state |= {"proposal_generator.rpn_head.conv.weight": torch.zeros(1)}
    state |= {f"roi_heads.box_head.fc{i}.weight": torch.zeros(1) for i in range(5)}
    torch.save({"model": state}, tmp_path / "mask_rcnn.pth")
    for training in (False, True):
        refused(
            make_model(2).train(training),
            str(tmp_path / "mask_rcnn.pth"),
            r"missing .*6 unexpected keys \(first proposal_generator.* another architecture",
            snapshot,
        )


def test_match_state_dict_refuses_weights_without_a_common_name(make_model, snapshot, tmp_path):
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "w.pth")
    match = r"1 unexpected keys \(encoder.weight\); these are weights of another architecture"
    refused(make_model(2), str(tmp_path / "w.pth"), match, snapshot)
