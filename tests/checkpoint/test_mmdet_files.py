"""Files as MMDetection and the authors save them, through this project's checkpointer."""

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.checkpoint.mmdet import to_mmdet_state_dict

CLASSES = ("ant", "bee", "cat")
META_2 = {
    "env_info": "sys.platform: linux",
    "config": "model = dict(type='QueryInst')\n",
    "seed": np.int64(3),
    "mmdet_version": "2.16.0",
    "epoch": 12,
    "hook_msgs": {"best": np.float64(0.5)},
    "CLASSES": CLASSES,
    "PALETTE": [(220, 20, 60), (119, 11, 32), (0, 0, 142)],
}
META_3 = {
    "cfg": "model = dict(type='QueryInst')\n",
    "dataset_meta": {"classes": CLASSES, "palette": [(220, 20, 60)] * 3},
    "mmengine_version": "0.10.7",
    "iter": 9,
    "hook_msgs": {},
}


def as_2(state):
    return {"meta": META_2, "state_dict": OrderedDict(state), "optimizer": {"state": {}}}


def as_3(state):
    rest = {"message_hub": {"log_scalars": {}}, "optimizer": {}, "param_schedulers": []}
    return {"meta": META_3, "state_dict": OrderedDict(state), **rest}


LAYOUTS = {
    "2.x": as_2,
    "3.x": as_3,
    "bare": OrderedDict,
    "distributed": lambda state: as_2({f"module.{n}": v for n, v in state.items()}),
    "pixels": lambda state: as_3({**state, "data_preprocessor.mean": torch.zeros(3, 1, 1)}),
}


def assert_equal_models(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_reads_every_bit_of_mmdetections_files(make_model, tmp_path, layout, training):
    source, model = make_model(1), make_model(2).train(training)
    torch.save(LAYOUTS[layout](to_mmdet_state_dict(source.state_dict())), tmp_path / "w.pth")
    QueryInstCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert_equal_models(model, source)


def test_load_reads_mmdetections_names_in_other_file_types(make_model, tmp_path):
    source = make_model(1)
    state = to_mmdet_state_dict(source.state_dict())
    save_file(state, tmp_path / "w.safetensors", metadata={"format": "pt"})
    torch.save(as_2(state), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth"):
        model = make_model(2).eval()
        QueryInstCheckpointer(model).load(str(tmp_path / name))
        assert_equal_models(model, source)


def test_load_reads_mmdetections_basic_blocks(make_model, tmp_path):
    depth = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
    source, model = make_model(1, **depth), make_model(2, **depth).eval()
    torch.save(as_2(to_mmdet_state_dict(source.state_dict())), tmp_path / "w.pth")
    QueryInstCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert_equal_models(model, source)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_load_reads_the_authors_files(make_model, tmp_path, suffix):
    source, model = make_model(1), make_model(2).eval()
    state = to_mmdet_state_dict(source.state_dict())
    norms = [n for n in state if re.fullmatch(r"roi_head\.mask_head\.\d\.convs\.\d\.bn\.bias", n)]
    state |= {n.replace("bn", "conv"): torch.full_like(state[n], 0.5) for n in norms}
    assert len(norms) == 8
    if suffix == "pth":
        torch.save(as_2(state), tmp_path / "w.pth")
    else:
        save_file(state, tmp_path / "w.safetensors")
    QueryInstCheckpointer(model).load(str(tmp_path / f"w.{suffix}"))
    # The same network with its biases in place, by eager torch.
    for head in source.eval().mask_head.stages:
        for conv in head.convs:
            conv.bias = nn.Parameter(torch.full((16,), 0.5))
    queries, feats = torch.randn(3, 16), torch.randn(3, 16, 14, 14)
    with torch.no_grad():
        for ours, theirs in zip(model.mask_head.stages, source.mask_head.stages):
            torch.testing.assert_close(ours(queries, feats), theirs(queries, feats))
    counted = [n for n in model.state_dict() if re.search(r"mask_head.*running_mean", n)]
    assert len(counted) == 8
    differing = {
        n for n, v in model.state_dict().items() if not torch.equal(v, source.state_dict()[n])
    }
    assert differing == set(counted)


def test_load_needs_no_objects_beside_the_weights(make_model, tmp_path):
    """What mmengine's runner saves while it trains wants its classes; a published file does not."""
    source = make_model(1)
    checkpoint = as_3(to_mmdet_state_dict(source.state_dict()))
    checkpoint["message_hub"] = {"log": slice(1)}  # stands for an object of mmengine
    torch.save(checkpoint, tmp_path / "epoch_1.pth")
    with pytest.raises(ValueError, match="epoch_1.pth is not loaded: .*slice.* --allow-pickle"):
        QueryInstCheckpointer(make_model(2)).load(str(tmp_path / "epoch_1.pth"))
