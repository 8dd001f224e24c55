"""MMDetection's names and ours: complete, both ways, and nothing lost but what is written down.

``mmdet_names.txt`` lists the state dict of MMDetection 3.3.0's ``queryinst_r50_fpn_1x_coco``.
"""

import ast
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from queryinst import model_zoo
from queryinst.checkpoint import mmdet
from queryinst.checkpoint.mmdet import (
    convert_mmdet_state_dict,
    folded_names,
    ignored_names,
    is_mmdet,
    to_mmdet_state_dict,
)

LIST = Path(__file__).with_name("mmdet_names.txt")
CONV = "roi_head.mask_head.1.convs.2."


def published():
    """The state dict of the R-50 model with 100 queries in MMDetection's names, without values."""
    lines = [line.split(" ", 1) for line in LIST.read_text().splitlines()]
    return {n: torch.empty(ast.literal_eval(shape), device="meta") for n, shape in lines}


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def build_without_memory(config):
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    with torch.device("meta"):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def test_convert_mmdet_state_dict_gives_exactly_our_names():
    model = build_without_memory("COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml")
    theirs = published()
    assert len(theirs) == 780
    assert shapes(convert_mmdet_state_dict(theirs)) == shapes(model.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q.yaml",
        "COCO-InstanceSegmentation/queryinst_R_101_FPN_3x.yaml",
        "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml",  # basic blocks
    ],
)
def test_convert_mmdet_state_dict_supports_all_depths_and_query_counts(name):
    ours = build_without_memory(name).state_dict()
    theirs = to_mmdet_state_dict(ours)
    assert is_mmdet(theirs) and not is_mmdet(ours)
    assert all(n.startswith(("backbone.", "neck.", "rpn_head.", "roi_head.")) for n in theirs)
    back = convert_mmdet_state_dict(theirs)
    assert all(back[n] is value for n, value in ours.items()) and len(back) == len(ours)


def test_to_mmdet_state_dict_gives_the_published_names():
    model = build_without_memory("COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml")
    assert shapes(to_mmdet_state_dict(model.state_dict())) == shapes(published())


@pytest.mark.parametrize("num_fcs", [0, 2, 5])
def test_convert_mmdet_state_dict_supports_any_number_of_hidden_layers(make_model, num_fcs):
    overrides = {"MODEL__QUERYINST__NUM_CLS_FCS": num_fcs, "MODEL__QUERYINST__NUM_REG_FCS": 2}
    ours = make_model(1, **overrides).state_dict()
    theirs = to_mmdet_state_dict(ours)
    places = {n.split(".")[4] for n in theirs if ".cls_fcs." in n}
    assert places == {str(p) for layer in range(num_fcs) for p in (3 * layer, 3 * layer + 1)}
    assert convert_mmdet_state_dict(theirs).keys() == ours.keys()


def test_to_mmdet_state_dict_and_back_keeps_every_bit(make_model):
    ours = make_model(1).state_dict()
    back = convert_mmdet_state_dict(to_mmdet_state_dict(ours))
    assert back.keys() == ours.keys()
    assert all(torch.equal(value, back[name]) for name, value in ours.items())


def test_key_table_has_one_row_for_each_name():
    for at, pattern in ((0, mmdet._TO_OURS), (1, mmdet._TO_THEIRS)):
        for row in mmdet.KEY_TABLE:
            name = re.sub(r"\{(stage|block|conv)\}", "1", row[at])
            name = name.replace("{norm}", "norm_in").replace("{param}", "weight")
            assert sum(bool(p.fullmatch(name)) for p, _ in pattern) == 1, name


def with_biases(theirs, seed=0):
    """As the authors' files are: a bias in front of each norm of the mask heads."""
    generator = torch.Generator().manual_seed(seed)
    norms = [n for n in theirs if re.fullmatch(r"roi_head\.mask_head.*\.bn\.bias", n)]
    biases = {
        n.replace(".bn.", ".conv."): torch.randn(theirs[n].shape, generator=generator)
        for n in norms
    }
    return {**biases, **theirs}


@pytest.mark.parametrize("conv", range(4))
@pytest.mark.parametrize("stage", [0, 1])
def test_convert_mmdet_state_dict_folds_biases_exactly(make_model, stage, conv):
    theirs = with_biases(to_mmdet_state_dict(make_model(1).double().state_dict()))
    before = {name: value.clone() for name, value in theirs.items()}
    assert len(folded_names(theirs)) == 8  # 4 in each of 2 stages; 24 in the authors' 6

    # Eager: the convolution with its bias, then the norm, both filled from the file's own names.
    prefix = f"roi_head.mask_head.{stage}.convs.{conv}."
    eager = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)).double().eval()
    for at, part in (("0", "conv"), ("1", "bn")):
        state = {n: v for n, v in theirs.items() if n.startswith(f"{prefix}{part}.")}
        state = {n.removeprefix(f"{prefix}{part}."): v for n, v in state.items()}
        eager[int(at)].load_state_dict(state, strict=True)

    model = make_model(2).double().eval()
    model.load_state_dict(convert_mmdet_state_dict(theirs), strict=True)
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        folded = model.mask_head.stages[stage].convs[conv](x)
        torch.testing.assert_close(folded, eager(x).relu(), rtol=0, atol=1e-12)
        eager[0].bias.zero_()  # the biases are seen
        assert (folded - eager(x).relu()).abs().max() > 1e-2
    assert before.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in before.items())


@pytest.mark.parametrize("change", ["missing", "short"])
def test_convert_mmdet_state_dict_refuses_a_bias_without_its_norm(make_model, change):
    theirs = with_biases(to_mmdet_state_dict(make_model(1).state_dict()))
    mean = CONV + "bn.running_mean"
    theirs[mean] = theirs[mean][:5]
    if change == "missing":
        del theirs[mean]
    with pytest.raises(KeyError, match="stages.1.convs.2.bias.* has no batch norm .*running_mean"):
        convert_mmdet_state_dict(theirs)


def test_ignored_names_are_left_out(make_model):
    ours = make_model(1).state_dict()
    extra = {"backbone.fc.weight": torch.zeros(2), "data_preprocessor.mean": torch.zeros(3)}
    theirs = {**to_mmdet_state_dict(ours), **extra}
    assert ignored_names(theirs) == list(extra)
    assert convert_mmdet_state_dict(theirs).keys() == ours.keys()
    prefixed = {f"module.{name}": value for name, value in theirs.items()}
    assert is_mmdet(prefixed) and len(ignored_names(prefixed)) == 2
    assert convert_mmdet_state_dict(prefixed).keys() == ours.keys()
    others = {"pixel_mean": torch.zeros(3), "backbone.bottom_up.stem.fc.bias": torch.zeros(3)}
    assert to_mmdet_state_dict({**ours, **others}).keys() == to_mmdet_state_dict(ours).keys()


def test_convert_mmdet_state_dict_needs_no_counters(make_model):
    theirs = to_mmdet_state_dict(make_model(1).state_dict())
    counters = {n for n in theirs if n.endswith("num_batches_tracked")}
    converted = convert_mmdet_state_dict({n: v for n, v in theirs.items() if n not in counters})
    assert len(converted) == len(theirs) - len(counters)


@pytest.mark.parametrize(
    "foreign",
    [
        "rpn_head.rpn_conv.weight",
        "roi_head.bbox_head.0.shared_fcs.0.weight",
        "roi_head.mask_head.0.convs.0.gn.weight",
        "neck.lateral_convs.4.conv.weight",
        "backbone.layer5.0.conv1.weight",
        "backbone.conv1.weight.extra",
        "module.backbone.conv1.weight",  # of some names alone
        "roi_head.bbox_head.0.cls_fcs.2.weight",  # where a ReLU stands
    ],
)
def test_convert_mmdet_state_dict_refuses_other_names(make_model, foreign):
    theirs = to_mmdet_state_dict(make_model(1).state_dict())
    theirs = {**theirs, foreign: torch.zeros(1), "zzz": torch.zeros(1)}
    with pytest.raises(KeyError) as error:
        convert_mmdet_state_dict(theirs)
    count = f"2 of {len(theirs)} checkpoint keys match no rule, first {foreign!r};"
    assert error.value.args[0].startswith(count) and "\n" not in error.value.args[0]


def test_to_mmdet_state_dict_refuses_other_names(make_model):
    ours = {**make_model(1).state_dict(), "roi_heads.box_head.fc1.weight": torch.zeros(1)}
    with pytest.raises(KeyError, match="1 of .* first 'roi_heads.box_head.fc1.weight'"):
        to_mmdet_state_dict(ours)


def test_convert_mmdet_state_dict_refuses_two_names_for_one_parameter(monkeypatch):
    rules = mmdet._compile([("a.{param}", "x.{param}"), ("b.{param}", "x.{param}")])
    monkeypatch.setattr(mmdet, "_TO_OURS", rules)
    state = {"a.weight": torch.zeros(1), "a.bias": torch.zeros(1), "b.weight": torch.zeros(1)}
    with pytest.raises(KeyError, match="'a.weight' and 'b.weight' are both 'x.weight'"):
        convert_mmdet_state_dict(state)
