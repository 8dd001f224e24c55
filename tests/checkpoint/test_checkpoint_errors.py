"""Files that are no checkpoint, or not a safe one; trainings that can't go on. One line each."""

import os
import pickle
import re
import urllib.error
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager

from queryinst.checkpoint import QueryInstCheckpointer, read_meta


class Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        if state["value"] < 0:
            raise ValueError("parameter group sizes differ\nsecond line")
        self.value = state["value"]


class RunsCode:
    """Its pickle makes a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def refused(snapshot):
    """Load `path` into a model and expect one line that names it, and an unchanged model."""

    def check(path, error, match):
        model = torch.nn.Linear(2, 2)
        changed = snapshot(model)
        with pytest.raises(error, match=match) as caught:
            QueryInstCheckpointer(model).load(str(path))
        text = str(caught.value)
        assert "\n" not in text and f"MODEL.WEIGHTS {path}" in text
        assert not changed()
        return text

    return check


def test_load_refuses_a_missing_file(refused, tmp_path):
    refused(tmp_path / "none.pth", FileNotFoundError, "does not exist")


def test_load_refuses_a_file_without_read_permission(refused, tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"PK")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(tmp_path / "w.pth", PermissionError, "cannot be read by this user")


def test_load_refuses_a_folder(refused, tmp_path):
    refused(tmp_path, IsADirectoryError, "is a folder")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_load_refuses_an_empty_file(refused, tmp_path, suffix):
    (tmp_path / f"empty.{suffix}").write_bytes(b"")
    refused(tmp_path / f"empty.{suffix}", ValueError, "is an empty file")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", bytes(range(64)) * 9],
)
def test_load_refuses_other_files(refused, tmp_path, content, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    refused(tmp_path / f"w.{suffix}", ValueError, "is not a checkpoint")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", [b"", b"\x80", b"\x80\x02", b"PK\x03\x04"])
def test_load_refuses_random_bytes(refused, tmp_path, seed, start):
    noise = np.random.default_rng(seed).bytes(200)
    (tmp_path / "w.pth").write_bytes(start + noise)
    refused(tmp_path / "w.pth", ValueError, "is not a checkpoint|is truncated or damaged|holds no")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_load_refuses_a_truncated_file(refused, tmp_path, kind, share):
    path = tmp_path / ("w.pkl" if kind == "pickle" else "w.pth")
    state = torch.nn.Linear(30, 30).state_dict()
    if kind == "pickle":
        path.write_bytes(pickle.dumps({n: v.numpy() for n, v in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, ValueError, "is truncated or damaged .*download it again")


@pytest.mark.parametrize("legacy", [False, True])
def test_read_checkpoint_executes_no_code_of_a_pth(refused, tmp_path, legacy):
    data = {"model": {"a": RunsCode(tmp_path / "ran")}}
    torch.save(data, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "evil.pth", ValueError, r"it needs the Python object _?io.open")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_read_checkpoint_executes_no_code_of_a_pickle(refused, tmp_path, protocol, suffix):
    path = tmp_path / f"evil.{suffix}"
    path.write_bytes(pickle.dumps({"a": RunsCode(tmp_path / "ran")}, protocol))
    wanted = "it needs the Python object _?io.open"
    refused(path, ValueError, wanted if protocol or suffix == "pkl" else "is not a checkpoint")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "os.system", "functools.partial"])
def test_read_checkpoint_names_a_callable_that_it_refuses(refused, tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    (tmp_path / "w.pkl").write_bytes(f"c{module}\n{attribute}\n.".encode())
    refused(tmp_path / "w.pkl", ValueError, f"the Python object {re.escape(name)},")


def test_read_checkpoint_refuses_harmless_objects_too(refused, tmp_path):
    torch.save({"model": {}, "args": Namespace(a=1)}, tmp_path / "w.pth")
    text = refused(tmp_path / "w.pth", ValueError, "the Python object argparse.Namespace, ")
    assert "only tensors" in text and "tools/convert_checkpoint.py --allow-pickle" in text


def test_read_checkpoint_looks_up_no_other_codecs(refused, tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"c_codecs\nencode\n(Vx\nVzlib\ntR.")
    refused(tmp_path / "w.pkl", ValueError, "codec 'zlib'")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_read_checkpoint_loads_numpy_and_plain_containers(tmp_path, suffix):
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).eval()
    extra = {
        "scalars": [np.float64(1.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.float16(2)],
        "arrays": (np.arange(3), np.full((2, 2), 3, ">f4"), np.array(True), np.zeros(0, np.uint8)),
        "plain": {"set": {1, 2}, "none": None, "complex": 1j, "bytes": b"\x00\xff"},
        "ordered": OrderedDict(a=1),
    }
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        del extra["plain"]["complex"]
        torch.save({"model": model.state_dict()} | extra, path)
    else:
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": state, "__author__": "x"} | extra, 2))
    rest = QueryInstCheckpointer(other).load(str(path))
    assert rest["scalars"] == extra["scalars"] and rest["plain"] == extra["plain"]
    for ours, theirs in zip(rest["arrays"], extra["arrays"]):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype.newbyteorder("=")
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize(
    "data, match",
    [
        ([1, 2], "holds no weights, but a list"),
        (torch.zeros(3), "holds no weights, but a Tensor"),
        ({}, "holds no weights, but an empty dict"),
        ({"model": {}, "iteration": 3}, r"holds no weights, but the keys \['iteration', 'model'\]"),
        ({"model": "resnet"}, "holds no weights"),
        ({"epoch": 3, "lr": 0.1}, r"2 of its 2 entries are not tensors, first 'epoch' \(int\)"),
        ({"model": {"a": torch.zeros(1), "b": "x"}}, r"1 of its 2 .* first 'b' \(str\)"),
        ({"model": {"a": np.array(["text"])}}, r"first 'a' \(ndarray\)"),
    ],
)
def test_tensors_of_refuses_a_file_without_weights(refused, tmp_path, data, match):
    if "ndarray" in match:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(data))
    else:
        torch.save(data, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", ValueError, match)


def test_checked_meta_refuses_a_later_format(refused, tmp_path):
    meta = {"format_version": 2, "queryinst_version": "9.1"}
    QueryInstCheckpointer(torch.nn.Linear(2, 2), str(tmp_path), meta=meta).save("model")
    text = refused(tmp_path / "model.pth", ValueError, "has format version 2, .* up to 1")
    assert "install queryinst 9.1 or later" in text
    with pytest.raises(ValueError, match="format version 2"):
        read_meta(str(tmp_path / "model.pth"))


def test_read_meta_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth does not exist"):
        read_meta(str(tmp_path / "none.pth"))


def test_fetch_names_what_to_do_without_a_network(refused, monkeypatch):
    def unreachable(path, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(PathManager, "get_local_path", unreachable)
    text = refused(
        "detectron2://ImageNetPretrained/R-50.pkl", ConnectionError, "cannot be downloaded"
    )
    assert "get https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/R-50.pkl by" in text


def test_fetch_refuses_a_name_that_a_catalog_lacks(refused):
    refused("catalog://NoSuchModel", FileNotFoundError, "names no file")


@pytest.mark.parametrize("path", ["", None])
def test_load_refuses_empty_weights_in_evaluation(path):
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty; evaluation"):
        QueryInstCheckpointer(torch.nn.Linear(2, 2).eval()).load(path)


def resume(model, folder, **checkpointables):
    loader = QueryInstCheckpointer(model, str(folder), **checkpointables)
    return loader.resume_or_load("", resume=True)


def test_resume_or_load_refuses_a_missing_last_checkpoint(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    match = r"model_0000009.pth \(to resume from, by .*last_checkpoint\) does not exist"
    with pytest.raises(ValueError, match=match) as error:
        resume(torch.nn.Linear(2, 2), tmp_path)
    assert "remove" not in str(error.value) and "\n" not in str(error.value)


def test_resume_or_load_needs_all_checkpointables(snapshot, tmp_path):
    QueryInstCheckpointer(torch.nn.Linear(2, 2), str(tmp_path), trainer=Counter()).save("model")
    model = torch.nn.Linear(2, 2)
    changed = snapshot(model)
    with pytest.raises(ValueError, match="model.pth .*holds no state of optimizer$"):
        resume(model, tmp_path, trainer=Counter(), optimizer=Counter())
    assert not changed()


def test_resume_or_load_refuses_a_state_that_does_not_fit(tmp_path):
    QueryInstCheckpointer(torch.nn.Linear(2, 2), str(tmp_path), trainer=Counter(-1)).save("model")
    match = r"its state of 'trainer' does not fit \(parameter group sizes differ\); resume with"
    with pytest.raises(ValueError, match=match):
        resume(torch.nn.Linear(2, 2), tmp_path, trainer=Counter())


@pytest.mark.parametrize(
    "overrides, match",
    [
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 5}, "MODEL.ROI_HEADS.NUM_CLASSES is 5, the file has 3"),
        ({"MODEL__MASK_ON": False}, r"unexpected keys \(first mask_head.stages.0"),
    ],
)
def test_resume_or_load_refuses_a_part_of_a_model(make_model, snapshot, tmp_path, overrides, match):
    QueryInstCheckpointer(make_model(1), str(tmp_path)).save("model")
    model = make_model(2, **overrides)
    model.allow_unloaded = (".*",)
    changed = snapshot(model)
    with pytest.raises(ValueError, match=match):
        resume(model, tmp_path)
    assert not changed()


def test_resume_or_load_refuses_a_backbone(make_model, tmp_path):
    bottom_up = {n: v for n, v in make_model(1).state_dict().items() if "bottom_up" in n}
    torch.save({"model": bottom_up}, tmp_path / "bottom_up.pth")
    (tmp_path / "last_checkpoint").write_text("bottom_up.pth")
    with pytest.raises(ValueError, match="holds only a backbone; .*--resume"):
        resume(make_model(), tmp_path)
