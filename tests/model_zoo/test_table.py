"""The table in the README equals models.yaml; figures are recorded without touching the rest."""

import dataclasses
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

from queryinst.model_zoo import load_models, records
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML, Measured
from queryinst.model_zoo.records import record_measured, with_measured
from queryinst.model_zoo.table import BEGIN, END, insert_tables, render_tables

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "projects/QueryInst/README.md"
NAME = "queryinst_r50_fpn_mstrain_480-800_3x_coco"
STAND_IN = Measured(12.34, 5.0, "2026-11-23", "coco_2017_val", "", "none: 'a', \"b\"", "a stand-in")


def rows(text):
    lines = [line for line in text.split("\n") if line.startswith("| [")]
    return {re.match(r"\| \[(\w+)\]", line)[1]: line.split("|")[1:-1] for line in lines}


def test_the_readme_is_in_step_with_models_yaml():
    text = README.read_text()
    assert insert_tables(text, load_models(PACKAGED_MODELS_YAML), "README.md") == text


def test_nothing_is_said_to_be_measured_that_was_not():
    entries = load_models(PACKAGED_MODELS_YAML)
    found = rows(render_tables(entries))
    assert len(found) == len(entries) == 7
    for entry in entries:
        cells = [cell.strip() for cell in found[Path(entry.config).stem]]
        assert cells[4:6] == [f"{entry.published.box_ap:.1f}", f"{entry.published.mask_ap:.1f}"]
        assert bool(cells[6]) == (entry.measured is not None)
    headers = [line for line in render_tables(entries).split("\n") if "configuration |" in line]
    assert ["MMDetection" in headers[0], "the authors" in headers[1]] == [True, True]


def test_measured_figures_have_their_own_column():
    entry = dataclasses.replace(load_models(PACKAGED_MODELS_YAML)[0], measured=STAND_IN)
    changed = dataclasses.replace(STAND_IN, options="INPUT.RESIZE_WITH OPENCV")
    other = dataclasses.replace(entry, config="other.yaml", measured=changed)
    found = rows(render_tables([entry, other]))
    assert found["queryinst_R_50_FPN_1x"][6].strip() == "12.3 / 5.0 (2026-11-23)"
    assert found["other"][6].strip() == "12.3 / 5.0 (2026-11-23, `INPUT.RESIZE_WITH OPENCV`)"


def test_a_text_without_markers_is_refused():
    for text in ("", BEGIN, f"{END} {BEGIN}"):
        with pytest.raises(ValueError, match="README.md must have the lines '<!-- model zoo"):
            insert_tables(text, (), "README.md")


def test_recording_changes_one_line():
    before = PACKAGED_MODELS_YAML.read_text()
    after = with_measured(before, NAME, STAND_IN, "models.yaml")
    changed = [(a, b) for a, b in zip(before.split("\n"), after.split("\n")) if a != b]
    assert len(changed) == 1 and changed[0][0] == "    measured: null"
    again = dataclasses.replace(STAND_IN, box_ap=13.0)
    assert '{box_ap: 13.0, mask_ap: 5.0, date: "2026-11-23"' in with_measured(
        after, NAME, again, "models.yaml"
    )


def test_recording_where_there_is_no_such_line_is_refused():
    text = PACKAGED_MODELS_YAML.read_text()
    for name, broken in (
        ("nobody", text),
        (NAME, text.replace("measured: null", "measured:\n      null")),
    ):
        with pytest.raises(ValueError, match=f"models.yaml needs an entry of the name {name}"):
            with_measured(broken, name, STAND_IN, "models.yaml")


def test_recording_in_a_checkout_renders_its_table(tmp_path, monkeypatch):
    monkeypatch.delenv("QUERYINST_MODELS_YAML", raising=False)
    copy, readme = tmp_path / "models.yaml", tmp_path / "README.md"
    shutil.copy(PACKAGED_MODELS_YAML, copy)
    shutil.copy(README, readme)
    monkeypatch.setattr(records, "PACKAGED_MODELS_YAML", copy)
    monkeypatch.setattr(records, "models_yaml", lambda: copy)
    monkeypatch.setattr(records, "find_readme", lambda: readme)
    assert record_measured(NAME, STAND_IN) == [str(copy), str(readme)]
    (recorded,) = [entry.measured for entry in load_models(copy) if entry.measured]
    assert recorded == STAND_IN
    assert rows(readme.read_text())["queryinst_R_50_FPN_3x"][6].strip() == "12.3 / 5.0 (2026-11-23)"


@pytest.mark.parametrize("is_stale", [False, True])
def test_the_tool_tells_whether_the_table_is_in_step(tmp_path, monkeypatch, capsys, is_stale):
    spec = importlib.util.spec_from_file_location("render_zoo", ROOT / "tools/render_zoo.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    copy, text = tmp_path / "README.md", README.read_text()
    stale = text.replace("| 42.0 |", "| 43.0 |") if is_stale else text
    copy.write_text(stale)
    monkeypatch.setattr(tool, "find_readme", lambda: copy)
    monkeypatch.setattr(sys, "argv", ["render_zoo.py", "--check"])
    assert tool.main() == (1 if is_stale else 0)
    captured = capsys.readouterr()
    assert ("run tools/render_zoo.py" in captured.err) == is_stale
    assert copy.read_text() == stale
    monkeypatch.setattr(sys, "argv", ["render_zoo.py"])
    assert tool.main() == 0 and copy.read_text() == text
