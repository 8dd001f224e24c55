"""Safetensors files: written, read back, and refused where they are damaged."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from queryinst.checkpoint import QueryInstCheckpointer, build_meta, read_meta
from queryinst.checkpoint.files import read_checkpoint, write_checkpoint
from queryinst.testing import tiny_cfg

META = {
    "format_version": 1,
    "config": "MODEL: {}\n",
    "thing_classes": ["ant", "bée"],
    "dataset_id_map": {7: 0, 90: 1},
    "nested": [{"x": None, "y": [1.5, True]}, {}],
}


def read(path):
    return read_checkpoint(str(path), f"MODEL.WEIGHTS {path}")


def assert_equal_states(state, other):
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_write_checkpoint_writes_what_read_checkpoint_reads(make_model, tmp_path, suffix):
    state = make_model(1).state_dict()
    path = tmp_path / "new" / f"w.{suffix}"
    write_checkpoint(str(path), {"model": state, "meta": META})
    checkpoint = read(path)
    assert checkpoint.keys() == {"model", "meta"}
    assert checkpoint["meta"] == META
    assert all(type(key) is int for key in checkpoint["meta"]["dataset_id_map"])
    assert_equal_states(checkpoint["model"], state)
    assert os.listdir(tmp_path / "new") == [path.name]
    assert read_meta(str(path)) == META


def test_write_checkpoint_supports_all_dtypes(tmp_path):
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    state = {str(dtype): torch.ones(2, 0, 3).to(dtype) for dtype in dtypes}
    state |= {f"{dtype} scalar": torch.ones(()).to(dtype) for dtype in dtypes}
    write_checkpoint(str(tmp_path / "w.safetensors"), {"model": state})
    checkpoint = read(tmp_path / "w.safetensors")
    assert checkpoint.keys() == {"model"}
    assert_equal_states(checkpoint["model"], state)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_compact_gives_shared_and_strided_tensors_their_own_storage(tmp_path, suffix):
    large = torch.arange(100_000.0)
    square = torch.arange(16.0).view(4, 4)
    state = {
        "part": large[5:8],
        "tied": square,
        "tied_too": square,
        "columns": square.T,
        "sparse_rows": square[::2],
        "integers": large[:4].view(torch.int32),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / f"w.{suffix}"
    write_checkpoint(str(path), {"model": state})
    assert_equal_states(read(path)["model"], {n: v.detach() for n, v in state.items()})
    assert path.stat().st_size < 10_000  # not all of `large`


def test_write_checkpoint_writes_a_valid_safetensors_file(make_model, tmp_path):
    state = make_model(1).state_dict()
    path = str(tmp_path / "w.safetensors")
    write_checkpoint(path, {"model": state, "meta": META})
    assert_equal_states(load_file(path), dict(state))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_is_safetensors_looks_at_the_content(make_model, tmp_path, name):
    source, model = make_model(1), make_model(2).eval()
    save_file(dict(source.state_dict()), tmp_path / name, metadata={"format": "pt"})
    assert QueryInstCheckpointer(model).load(str(tmp_path / name)) == {}
    assert_equal_states(model.state_dict(), source.state_dict())
    assert read_meta(str(tmp_path / name)) is None


def test_load_reads_meta_of_a_safetensors_file(make_model, tmp_path):
    source, model = make_model(1), make_model(2).eval()
    meta = build_meta(tiny_cfg(), None)
    path = str(tmp_path / "w.safetensors")
    write_checkpoint(path, {"model": source.state_dict(), "meta": meta})
    assert QueryInstCheckpointer(model).load(path) == {"meta": meta}
    assert_equal_states(model.state_dict(), source.state_dict())


def test_load_refuses_a_later_format_of_meta(make_model, tmp_path):
    path = str(tmp_path / "w.safetensors")
    meta = {"format_version": 2, "queryinst_version": "9.1"}
    write_checkpoint(path, {"model": {"a": torch.zeros(1)}, "meta": meta})
    with pytest.raises(ValueError, match="has format version 2, .* install queryinst 9.1"):
        QueryInstCheckpointer(make_model()).load(path)


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.05, 0.5, 0.999])
def test_read_safetensors_refuses_a_truncated_file(make_model, snapshot, tmp_path, share):
    path = tmp_path / "w.safetensors"
    write_checkpoint(str(path), {"model": make_model(1).state_dict(), "meta": META})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    model = make_model(2)
    changed = snapshot(model)
    with pytest.raises(ValueError, match="is truncated or damaged .*download it again") as error:
        QueryInstCheckpointer(model).load(str(path))
    assert "\n" not in str(error.value) and f"MODEL.WEIGHTS {path}" in str(error.value)
    assert not changed()


@pytest.mark.parametrize("text", ["{", "[1, ]", '{"__pairs__": [[[1], 2]]}', '{"__pairs__": 3}'])
def test_read_safetensors_refuses_damaged_meta(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"queryinst": text})
    with pytest.raises(ValueError, match="w.safetensors is truncated or damaged"):
        read(tmp_path / "w.safetensors")


def test_write_checkpoint_refuses_what_the_format_cannot_hold(tmp_path):
    state = {"a": torch.zeros(1)}
    checkpoint = {"model": state, "optimizer": {}, "iteration": 3}
    with pytest.raises(ValueError, match="w.safetensors .* not optimizer, iteration; write a .pth"):
        write_checkpoint(str(tmp_path / "w.safetensors"), checkpoint)
    write_checkpoint(str(tmp_path / "w.pth"), checkpoint)
    assert read(tmp_path / "w.pth")["iteration"] == 3
    with pytest.raises(ValueError, match="w.pkl must end in .pth or .safetensors"):
        write_checkpoint(str(tmp_path / "w.pkl"), {"model": state})


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_write_checkpoint_leaves_the_old_file_if_it_fails(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"w.{suffix}"
    write_checkpoint(str(path), {"model": {"a": torch.zeros(1)}})
    old = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="cannot write .*No space left.*with room left") as error:
        write_checkpoint(str(path), {"model": {"a": torch.ones(1)}})
    assert "OUTPUT_DIR" not in str(error.value)
    assert path.read_bytes() == old and os.listdir(tmp_path) == [path.name]
