"""Backbone files: explicit rules load all of bottom_up, and it computes what torchvision's does."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.checkpoint.layouts import BOTTOM_UP, to_model_names

STAGES = {f"res{i + 1}": f"layer{i}" for i in range(1, 5)}


def build_resnet(depth, norm="BN"):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM = depth, norm
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def bottom_up_of(model):
    return model.backbone.bottom_up.state_dict()


def as_torchvision(bottom_up):
    """This project's bottom_up in torchvision's names, written by hand, with a classifier."""
    state = {}
    for name, value in bottom_up.items():
        parts = name.split(".")
        stage, rest = parts[0], ".".join(parts[1:])
        if stage == "stem":
            state[rest.replace("conv1.norm", "bn1")] = value
            continue
        block, conv = parts[1], ".".join(parts[2:])
        for number in "123":
            conv = conv.replace(f"conv{number}.norm", f"bn{number}")
        conv = conv.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        state[f"{STAGES[stage]}.{block}.{conv}"] = value
    return state | {"fc.weight": torch.zeros(5, 8), "fc.bias": torch.zeros(5)}


def as_caffe2(bottom_up):
    """This project's bottom_up as Caffe2 has it: batch norms folded, so no statistics."""
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    leaves = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    blobs = {"conv1_b": np.zeros(8, np.float32), "fc1000_w": np.zeros((5, 8), np.float32)}
    for name, value in bottom_up.items():
        stage, *rest = name.split(".")
        at = 1 if stage == "stem" else 2
        leaf = leaves.get(".".join(rest[at:]))
        if leaf and stage == "stem":
            blobs["conv1_w" if leaf == "w" else f"res_conv1_{leaf}"] = value.numpy()
        elif leaf:
            blobs[f"{stage}_{rest[0]}_branch{branches[rest[1]]}_{leaf}"] = value.numpy()
    return blobs | {"conv1_w_momentum": np.zeros(3, np.float32)}


def write_pickle(path, obj, protocol):
    path.write_bytes(pickle.dumps(obj, protocol))
    return str(path)


def assert_bottom_up_loaded(model, source, changed, but=()):
    ours, theirs = bottom_up_of(model), bottom_up_of(source)
    names = [name for name in ours if not name.endswith(but or "num_batches_tracked")]
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    assert all(name.startswith(BOTTOM_UP) for name in changed())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("counters", [False, True])
def test_to_model_names_reads_a_torchvision_resnet(
    make_model, snapshot, tmp_path, messages, legacy, counters
):
    source, model = make_model(1), make_model(2)
    state = as_torchvision(bottom_up_of(source))
    if not counters:
        state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    path = tmp_path / "resnet.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(str(path))
    assert_bottom_up_loaded(model, source, changed)
    assert messages("bottom_up") == [
        f"Backbone weights from MODEL.WEIGHTS {path}: all 265 keys of bottom_up are loaded; the"
        " rest is re-initialized"
    ]


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_to_model_names_reads_a_detectron2_pickle(
    make_model, snapshot, tmp_path, messages, protocol, numpy_1
):
    source, model = make_model(1), make_model(2)
    state = {n: v.numpy() for n, v in bottom_up_of(source).items()} | {"stem.fc.bias": np.zeros(5)}
    data = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
    path = write_pickle(tmp_path / "R-50.pkl", data, protocol)
    if numpy_1 and protocol == 2:  # its globals are lines of text, so that a rename is no harm
        content = (tmp_path / "R-50.pkl").read_bytes()
        assert b"core.multiarray\n" in content  # numpy 1 writes it so by itself
        (tmp_path / "R-50.pkl").write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(path)
    assert_bottom_up_loaded(model, source, changed)
    assert len(messages("all 265 keys of bottom_up")) == 1


@pytest.mark.parametrize("blobs", [False, True])
def test_to_model_names_reads_a_caffe2_pickle(make_model, snapshot, tmp_path, messages, blobs):
    source, model = make_model(1), make_model(2)
    state = as_caffe2(bottom_up_of(source))
    path = write_pickle(tmp_path / "R-50.pkl", {"blobs": state} if blobs else state, 2)
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(path)
    unsaved = ("running_mean", "running_var", "num_batches_tracked")
    assert_bottom_up_loaded(model, source, changed, unsaved)
    norm = model.backbone.bottom_up.res4[0].conv2.norm
    x = torch.rand(1, norm.num_features, 2, 2)
    affine = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm.eval()(x), affine)  # Caffe2's norm is this and no more
    assert len(messages("all 265 keys of bottom_up")) == 1


def test_to_model_names_reads_bottom_up_by_its_full_names(make_model, snapshot, tmp_path):
    source, model = make_model(1), make_model(2)
    state = {n: v for n, v in source.state_dict().items() if n.startswith(BOTTOM_UP)}
    torch.save({"model": state}, tmp_path / "bottom_up.pth")
    changed = snapshot(model)
    QueryInstCheckpointer(model).load(str(tmp_path / "bottom_up.pth"))
    assert_bottom_up_loaded(model, source, changed)


@pytest.mark.parametrize("depth", [18, 50])
def test_to_model_names_keeps_what_torchvision_computes(depth):
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # no time is spent on initial values
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
        ours = build_resnet(depth).eval()
    with torch.no_grad():
        for name, value in theirs.to_empty(device="cpu").state_dict().items():
            value.copy_(0.9 + 0.2 * torch.rand(value.shape, generator=generator))
            if value.ndim > 1:  # centred, so that the outputs neither vanish nor overflow
                value.sub_(1).mul_(20 / value[0].numel() ** 0.5)
    names = [BOTTOM_UP + name for name in ours.state_dict()]
    renamed = to_model_names(theirs.state_dict(), names)
    renamed = {name.removeprefix(BOTTOM_UP): value for name, value in renamed.items()}
    ours.load_state_dict(renamed, strict=True, assign=True)
    image = torch.rand(1, 3, 64, 64)
    layers = torch.nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        res5 = layers(image)
        assert 1e-3 < res5.std() < 1e4
        torch.testing.assert_close(ours(image)["res5"], res5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [34, 101, 152])
def test_to_model_names_has_rules_for_every_depth_of_torchvision(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).state_dict()
        ours = build_resnet(depth).state_dict()
    renamed = to_model_names(theirs, [BOTTOM_UP + name for name in ours])
    assert {n: v.shape for n, v in renamed.items()} == {
        BOTTOM_UP + n: v.shape for n, v in ours.items()
    }


def test_match_state_dict_refuses_a_backbone_of_another_depth(make_model, snapshot, tmp_path):
    state = as_torchvision(bottom_up_of(make_model(1)))
    state |= {n.replace("layer3.1.", "layer3.6."): v for n, v in state.items() if "layer3.1." in n}
    torch.save(state, tmp_path / "deep.pth")
    model = make_model(2)
    changed = snapshot(model)
    with pytest.raises(
        ValueError, match=r"deep.pth .* 15 unexpected keys .*res4\.6.*MODEL.RESNETS.DEPTH"
    ):
        QueryInstCheckpointer(model).load(str(tmp_path / "deep.pth"))
    assert not changed()


def test_match_state_dict_refuses_an_incomplete_backbone(make_model, snapshot, tmp_path):
    state = as_torchvision(bottom_up_of(make_model(1)))
    del state["layer4.2.conv3.weight"], state["layer1.0.downsample.1.bias"]
    torch.save(state, tmp_path / "part.pth")
    model = make_model(2)
    changed = snapshot(model)
    with pytest.raises(ValueError, match=r"2 missing keys \(backbone.bottom_up.res2"):
        QueryInstCheckpointer(model).load(str(tmp_path / "part.pth"))
    assert not changed()


def test_match_state_dict_refuses_a_backbone_with_unexpected_keys(make_model, tmp_path):
    state = as_torchvision(bottom_up_of(make_model(1))) | {"layer5.0.conv1.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"1 unexpected keys \(layer5.0.conv1.weight\)"):
        QueryInstCheckpointer(make_model(2)).load(str(tmp_path / "more.pth"))


def test_match_state_dict_refuses_a_backbone_with_other_norms(make_model, tmp_path):
    torch.save(as_torchvision(bottom_up_of(make_model(1))), tmp_path / "bn.pth")
    model = make_model(2)
    model.backbone.bottom_up.stem.conv1.norm = torch.nn.GroupNorm(2, 8)
    with pytest.raises(ValueError, match="2 unexpected keys .*MODEL.RESNETS.NORM"):
        QueryInstCheckpointer(model).load(str(tmp_path / "bn.pth"))


def test_match_state_dict_refuses_a_backbone_in_evaluation(make_model, snapshot, tmp_path):
    torch.save(as_torchvision(bottom_up_of(make_model(1))), tmp_path / "resnet.pth")
    model = make_model(2).eval()
    changed = snapshot(model)
    with pytest.raises(ValueError, match="resnet.pth holds only a backbone; evaluation"):
        QueryInstCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    assert not changed()
