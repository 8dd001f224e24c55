"""Requests and files that are refused: one line each, and nothing is written."""

import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from queryinst.checkpoint.files import read_checkpoint
from queryinst.convert import convert_checkpoint
from queryinst.testing import tiny_cfg
from queryinst_cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path, theirs):
    torch.save({"meta": {"CLASSES": ("a", "b", "c")}, "state_dict": theirs}, tmp_path / "in.pth")
    return str(tmp_path / "in.pth")


@pytest.fixture
def refused(tmp_path):
    def check(source, target, error, match, **options):
        before = set(tmp_path.rglob("*"))
        with pytest.raises(error, match=match) as caught:
            convert_checkpoint(str(source), str(target), **options)
        assert "\n" not in str(caught.value)
        assert set(tmp_path.rglob("*")) == before

    return check


@pytest.mark.parametrize("name", ["out.pkl", "out", "out.pth.gz"])
def test_convert_checkpoint_refuses_another_suffix(refused, tmp_path, source, name):
    refused(source, tmp_path / name, ValueError, f"{name} must end in .pth or .safetensors")


def test_convert_checkpoint_refuses_a_missing_source(refused, tmp_path):
    refused(tmp_path / "no.pth", tmp_path / "out.pth", FileNotFoundError, "no.pth does not exist")


def test_convert_checkpoint_never_overwrites_the_source(refused, tmp_path, source):
    before = Path(source).read_bytes()
    os.symlink(source, tmp_path / "link.pth")
    os.link(source, tmp_path / "hard.pth")
    for target in (source, f"{tmp_path}/../{tmp_path.name}/in.pth", "link.pth", "hard.pth"):
        refused(source, tmp_path / target, ValueError, "is the same file as .*name another file")
    assert Path(source).read_bytes() == before


def test_convert_checkpoint_refuses_impossible_targets(refused, tmp_path, source):
    (tmp_path / "folder.pth").mkdir()
    refused(source, tmp_path / "folder.pth", IsADirectoryError, "folder.pth is a folder")
    refused(source, "https://localhost/out.pth", ValueError, "out.pth is a URL")
    refused(source, tmp_path / "in.pth" / "out.pth", OSError, "cannot write .*in.pth/out.pth")


def test_convert_checkpoint_refuses_inference_only_for_mmdetection(refused, tmp_path, source):
    refused(
        source,
        tmp_path / "o.pth",
        ValueError,
        "--inference-only is only for this",
        inference_only=True,
        to="mmdet",
    )
    refused(source, tmp_path / "o.pth", ValueError, "--to 'onnx' must be one of", to="onnx")


@pytest.mark.parametrize(
    "override, match",
    [
        ({"MODEL__QUERYINST__NUM_QUERIES": 9}, "NUM_QUERIES is 9, the file has 6"),
        ({"MODEL__QUERYINST__NUM_STAGES": 3}, "NUM_STAGES is 3, the file has 2"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 5}, "NUM_CLASSES is 5, the file has 3"),
        ({"MODEL__QUERYINST__FFN_DIM": 8}, "FFN_DIM is 8, the file has 32"),
        ({"MODEL__RESNETS__DEPTH": 101}, "DEPTH is 101, the file has 50"),
    ],
)
def test_convert_checkpoint_refuses_another_model(refused, tmp_path, source, override, match):
    (tmp_path / "other.yaml").write_text(tiny_cfg(**override).dump())
    options = {"config_file": str(tmp_path / "other.yaml")}
    refused(source, tmp_path / "out.pth", ValueError, f"in.pth .*{match}", **options)


def test_convert_checkpoint_refuses_incomplete_and_foreign_files(
    refused, tmp_path, theirs, config_file
):
    def changed(**entries):
        state = {n: v for n, v in {**theirs, **entries}.items() if v is not None}
        torch.save(state, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    options = {"config_file": config_file}
    one = {"roi_head.bbox_head.0.fc_reg.bias": None}
    refused(changed(**one), tmp_path / "o.pth", ValueError, "box_deltas.bias", **options)
    one = {"rpn_head.rpn_conv.weight": torch.zeros(1)}
    refused(changed(**one), tmp_path / "o.pth", KeyError, "w.pth: 1 of .* match no rule", **options)
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", tmp_path / "o.pth", ValueError, "'a.weight', have no known layout")


def test_convert_checkpoint_refuses_a_later_format(refused, tmp_path, ours):
    meta = {"format_version": 2, "queryinst_version": "9.1"}
    torch.save({"model": ours, "meta": meta}, tmp_path / "in.pth")
    refused(tmp_path / "in.pth", tmp_path / "o.pth", ValueError, "format version 2")


class Marker:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_convert_checkpoint_executes_code_only_with_allow_pickle(
    refused, tmp_path, ours, kind, assert_holds
):
    path, target = tmp_path / "evil.pth", tmp_path / "out.pth"
    if kind == "pickle":
        state = {name: value.numpy() for name, value in ours.items()}
        path.write_bytes(pickle.dumps({"model": state, "x": Marker(tmp_path / "ran")}))
    else:
        data = {"model": ours, "x": Marker(tmp_path / "ran")}
        torch.save(data, path, _use_new_zipfile_serialization=kind == "zip")
    refused(path, target, ValueError, r"needs .*io.open, .*convert_checkpoint.py --allow-pickle")
    assert not (tmp_path / "ran").exists()
    convert_checkpoint(str(path), str(target), allow_pickle=True)
    assert (tmp_path / "ran").exists()
    # What was written needs no such trust.
    assert_holds(read_checkpoint(str(target), "out.pth")["model"], ours)


@pytest.mark.parametrize("legacy", [False, True])
def test_convert_checkpoint_replaces_objects_of_missing_packages(
    refused, tmp_path, theirs, legacy, monkeypatch, assert_holds, ours
):
    module = types.ModuleType("mmengine_of_the_test")
    buffer = type("HistoryBuffer", (dict,), {"__module__": module.__name__})
    module.HistoryBuffer = buffer
    path, target = tmp_path / "in.pth", tmp_path / "out.pth"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        hub = {"log": buffer(loss=[1.0]), "kind": buffer}
        data = {"meta": {"epoch": 12}, "message_hub": hub, "state_dict": theirs}
        torch.save(data, path, _use_new_zipfile_serialization=not legacy)
    refused(path, target, ValueError, "needs .*mmengine_of_the_test.HistoryBuffer, .*allow-pickle")
    done = convert_checkpoint(str(path), str(target), allow_pickle=True)
    assert "left out, because these are not weights: message_hub" in done.notes
    assert_holds(read_checkpoint(str(target), "out.pth")["model"], ours)


@pytest.mark.parametrize("content", [b"\x80\x02noise", b"PK\x03\x04noise", b"text"])
def test_convert_checkpoint_refuses_a_damaged_file(refused, tmp_path, content):
    (tmp_path / "in.pth").write_bytes(content)
    for allow in (False, True):
        match = "in.pth is (not a checkpoint|truncated or damaged)"
        refused(tmp_path / "in.pth", tmp_path / "o.pth", ValueError, match, allow_pickle=allow)


def run(*arguments):
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools/convert_checkpoint.py")]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


def test_queryinst_convert_prints_the_result_or_one_line(tmp_path, source, config_file, capsys):
    target = str(tmp_path / "out.safetensors")
    assert main(["convert", source, target, "--config-file", config_file]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{source}: MMDetection's names\n") and f"\n{target}:\n" in out
    assert main(["convert", source, source, "--to", "mmdet"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"queryinst convert: error: {source} is the same file as")


def test_convert_checkpoint_command_line_prints_the_result_or_one_line(
    tmp_path, source, config_file
):
    done = run(
        source, tmp_path / "out.safetensors", "--config-file", config_file, "--inference-only"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{source}: MMDetection's names"
    digests = [line for line in lines if line.startswith("  sha256 ")]
    assert len(digests) == 2 and all(len(line.split()[1]) == 64 for line in digests)
    assert any(line.split()[:4] == ["box", "head,", "stage", "1"] for line in lines)
    assert any(line.endswith("x initial_queries.query_feats (6, 16) float32") for line in lines)

    failed = run(source, tmp_path / "none.pth", "--ema")
    assert failed.returncode == 1 and "has one set of weights" in failed.stderr

    failed = run(source, source)
    assert failed.returncode == 1 and failed.stdout == ""
    expected = f"convert_checkpoint.py: error: {source} is the same file as"
    assert failed.stderr.startswith(expected) and len(failed.stderr.splitlines()) == 1
