"""Mutated inputs end in what they say or in one clear line; and the harness would tell if not."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dev.fuzz import processes
from dev.fuzz.__main__ import KINDS, kept_inputs, main
from dev.fuzz.hostile import draw_byte_edit, edit_bytes, expand, mutate_tree
from dev.fuzz.outcomes import (
    BARE,
    CLEAR,
    FATAL,
    OUTCOMES,
    RIGHT,
    WARNED,
    WRONG,
    WrongResultError,
    judge,
    markdown_table,
)

ROOT = Path(__file__).resolve().parents[2]
NUM_INPUTS = 500


@pytest.fixture(scope="module")
def table():
    """What the command prints; in a process of its own, which has no threads when it forks."""
    command = [sys.executable, "-W", "ignore", "-m", "dev.fuzz", "--inputs", str(NUM_INPUTS)]
    paths = os.pathsep.join([str(ROOT / "projects" / "QueryInst"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("kind", KINDS)
def test_main_finds_no_defect(table, kind):
    row = re.findall(rf"^\| {kind} \| (.+) \|$", table.stdout, re.MULTILINE)
    assert row, table.stderr
    num_inputs, *counts, _ = map(int, row[0].split(" | "))
    by_outcome = dict(zip(OUTCOMES, counts, strict=True))
    assert num_inputs == sum(counts) == NUM_INPUTS + len(kept_inputs(kind))
    assert by_outcome[BARE] == by_outcome[WRONG] == by_outcome[FATAL] == 0, table.stderr
    assert by_outcome[RIGHT] > 20 and by_outcome[CLEAR] > 100  # mutations are neither all nor none


class Stub:
    """A kind of input whose inputs are what happens."""

    name = "stub"

    def prepare(self, folder):
        pass

    def draw(self, seed):
        return ACTS[seed]

    def names(self):
        return ("w.pth",)

    def run(self, given, folder):
        return given(folder)


def _loop(folder):
    while True:
        pass


def _fail(error):
    def act(folder):
        raise error

    return act


def _warn(folder):
    warnings.warn("the newest file is damaged", UserWarning)


def _reach_for_the_network(folder):
    import urllib.request

    urllib.request.urlopen("http://example.com/x.yaml")


ACTS = [
    lambda folder: None,
    lambda folder: os.abort(),
    lambda folder: (folder / processes.MARK).mkdir(),
    lambda folder: bytearray(100 << 30) and None,
    _loop,
    _fail(ValueError("w.pth is an empty file")),
    _fail(AssertionError()),
    _warn,
    lambda folder: "nothing was said of the damage",
    _reach_for_the_network,
    lambda folder: os._exit(0),
    lambda folder: None,
]


def test_run_all_knows_the_input_of_every_crash(monkeypatch):
    monkeypatch.setattr(processes, "_CPU_SECONDS", 1)
    verdicts = dict(processes.run_all(Stub(), range(len(ACTS)), Stub().draw, workers=2))
    outcomes = [verdicts[seed].outcome for seed in range(len(ACTS))]
    expected = [RIGHT, FATAL, WRONG, FATAL, FATAL, CLEAR, BARE, WARNED, WRONG, WRONG, FATAL, RIGHT]
    assert outcomes == expected
    assert "SIGABRT" in verdicts[1].line and "SIGXCPU" in verdicts[4].line
    assert "executed" in verdicts[2].line and "example.com" in verdicts[9].line


LONG = "w.pth is damaged " + "x" * 400
ERRORS = [
    (ValueError("w.pth is an empty file"), CLEAR),
    (ValueError("a batch of 0 images must be at least 1; set SOLVER.IMS_PER_BATCH"), CLEAR),
    (KeyError("w.pth: 3 names match no rule"), CLEAR),
    (ValueError("/tmp/here/w.pth is damaged" + "x" * 380), CLEAR),  # the folder does not count
    (ValueError("it is damaged"), BARE),
    (ValueError(LONG), BARE),
    (ValueError("w.pth is damaged\nTraceback"), BARE),
    (ValueError(), BARE),
    (KeyError("w.pth"), BARE),
    (TypeError("w.pth is None"), BARE),
    (RuntimeError("w.pth does not fit"), BARE),
    (RecursionError("w.pth is deep"), BARE),
    (MemoryError(), FATAL),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FATAL),
    (WrongResultError("other weights"), WRONG),
]


@pytest.mark.parametrize("error, outcome", ERRORS)
def test_judge_wants_one_line_that_names_file_or_key(error, outcome):
    try:
        raise error
    except Exception as raised:
        assert judge(raised, ["/tmp/here"], ["w.pth"]).outcome == outcome


def test_markdown_table_has_a_row_for_each_kind():
    lines = markdown_table({"coco": {RIGHT: 3, CLEAR: 2}}, {"coco": 1.6}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| coco | 5 | 3 | 0 | 2 | 0 | 0 | 0 | 2 |"


@pytest.mark.parametrize("kind", KINDS)
def test_kept_inputs_are_plain(kind):
    inputs = kept_inputs(kind)
    assert inputs and json.loads(json.dumps(inputs)) == inputs


def test_draw_gives_the_same_input_for_a_seed(tmp_path):
    kind = KINDS["configuration"]()
    texts = [json.dumps(kind.draw(seed)) for seed in range(50)]
    assert texts == [json.dumps(KINDS["configuration"]().draw(seed)) for seed in range(50)]
    assert len(set(texts)) == 50


def test_edit_bytes_changes_what_it_says():
    data = bytes(range(100))
    assert edit_bytes(data, ["flip", 0.5, 0]) == data[:50] + bytes([51]) + data[51:]
    assert edit_bytes(data, ["cut", 0.5, 0]) == data[:50]
    assert edit_bytes(data, ["zero", 0.98, 64]) == data[:98] + bytes(2)
    assert edit_bytes(data, ["drop", 0.5, 10]) == data[:50] + data[60:]
    assert edit_bytes(data, ["copy", 0.0, 2]) == data[:2] + data
    assert len(edit_bytes(data, ["insert", 0.1, 7])) == 107
    assert edit_bytes(b"", ["flip", 0.5, 3]) == b""


def test_mutate_tree_and_draw_byte_edit_change_something():
    import random

    rng = random.Random(0)
    tree = {"a": [1, 2, {"b": "text"}], "c": None}
    texts = set()
    for _ in range(200):
        changed = json.loads(json.dumps(tree))
        mutate_tree(changed, rng)
        texts.add(json.dumps(changed))
    assert len(texts) > 100
    data = bytes(1000)
    assert sum(edit_bytes(data, draw_byte_edit(rng)) != data for _ in range(100)) > 50


def test_expand_writes_out_what_json_cannot_say():
    assert expand('{"a": "@deep:3@", "b": "@digits:4@"}') == '{"a": [[[]]], "b": 9999}'


def test_main_replays_an_input_from_its_file(tmp_path, capsys):
    path = tmp_path / "input.json"
    path.write_text(json.dumps({"opts": ["SEED", "x"], "training": True}))
    assert main(["configuration", "--workers", "1", "--replay", str(path)]) == 0
    assert f"outcome='{CLEAR}'" in capsys.readouterr().out
