"""Measuring a published model: on a tiny stand-in, through the tool."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

from queryinst.engine.zoo_evaluation import choose_models
from queryinst.model_zoo import get_config_file, load_models

TOOL = Path(__file__).resolve().parents[2] / "tools/evaluate_zoo.py"
TINY = "quick_schedules/queryinst_R_50_FPN_instant_test.yaml"


@pytest.fixture
def run_tool(monkeypatch, tmp_path, make_args):  # make_args: logs without traces
    spec = importlib.util.spec_from_file_location("evaluate_zoo", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*words):
        output = ["--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["evaluate_zoo.py", *output, *words])
        return module.main()

    return run


@pytest.fixture
def stand_in(zoo, tiny_data, make_published):
    """A published model whose configuration's data set has four images."""
    config = {"_BASE_": get_config_file(TINY), "DATASETS": {"TEST": ("tiny_val",)}}
    (zoo.yaml_path.parent / "tiny_val.yaml").write_text(yaml.safe_dump(config))
    body = make_published(seed=1)
    zoo.publish(b"never fetched", name="other")
    return zoo.publish(body, config="tiny_val.yaml")


def test_figures_are_measured_shown_and_recorded(zoo, stand_in, run_tool, capsys):
    assert run_tool("--models", "tiny", "--record") == 0
    shown = capsys.readouterr().out
    measured = next(entry.measured for entry in load_models() if entry.name == "tiny")
    assert measured.data_set == "tiny_val" and measured.options == ""
    assert 0 <= measured.box_ap <= 100 and 0 <= measured.mask_ap <= 100
    assert "torch" in measured.versions and measured.hardware
    assert "published by MMDetection: box AP 42.0, mask AP 37.5" in shown
    figures = f"measured here: box AP {measured.box_ap:.1f}, mask AP {measured.mask_ap:.1f}"
    assert f"{figures} ({measured.date}; {measured.versions}; {measured.hardware})" in shown
    assert f"recorded in {zoo.yaml_path}" in shown
    assert next(e for e in load_models() if e.name == "other").measured is None


def test_changed_options_are_said_and_another_data_set_is_not_recorded(
    zoo, server, stand_in, run_tool, capsys
):
    before = zoo.yaml_path.read_text()
    opts = ["--opts", "DATASETS.TEST", "('shapes_val',)"]
    assert run_tool("--models", "tiny", "--record", *opts) == 1
    said = capsys.readouterr().err
    assert "published with figures on tiny_val, not on shapes_val" in said
    assert server.requests == []
    opts = ["--opts", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "48"]
    assert run_tool("--models", "tiny_val", *opts) == 0
    assert "  with INPUT.MIN_SIZE_TEST 48\n" in capsys.readouterr().out
    assert zoo.yaml_path.read_text() == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["--models", "nobody"], "--models nobody is none of .*; there are: other, tiny"),
        (["--models", "tiny", "--opts", "OUTPUT_DIR", "x"], "OUTPUT_DIR is set by evaluate_zoo"),
        (["--models", "tiny", "--opts", "MODEL.MASK_ON", "False"], "MODEL.MASK_ON is False"),
        (["--models", "tiny", "--opts", "MODEL.MASKS", "1"], "unknown key MODEL.MASKS"),
    ],
)
def test_what_cannot_be_measured_is_one_line(stand_in, server, run_tool, capsys, words, said):
    assert run_tool(*words) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert re.search(f"evaluate_zoo.py: error: .*{said}", lines[-1])
    assert server.requests == []


def test_files_without_an_address_are_named_by_hand(
    zoo, stand_in, run_tool, capsys, tmp_path, make_published
):
    by_hand = tmp_path / "by_hand.pth"
    by_hand.write_bytes(make_published(seed=1))
    zoo.publish(b"", config="tiny_val.yaml", url=None, sha256_prefix=None)
    assert [entry.name for entry in choose_models()] == ["other"]
    assert run_tool("--models", "tiny") == 1
    assert "has no stable address; get it from MMDetection" in capsys.readouterr().err
    assert run_tool("--models", "tiny", "--weights", str(by_hand)) == 0
    assert "measured here: box AP" in capsys.readouterr().out
