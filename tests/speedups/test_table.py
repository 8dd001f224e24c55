"""The names of speed-ups, whom "auto" stands for, and that each can be deleted."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import queryinst
from queryinst.engine.checks import check_run
from queryinst.modeling import QueryInst
from queryinst.speedups import SPEEDUPS, resolve, table
from queryinst.testing import random_batch, tiny_cfg

NAMES = [row.name for row in SPEEDUPS]
PACKAGE = Path(queryinst.__file__).parent


def test_SPEEDUPS_have_a_module_each_that_applies_to_something():
    assert len(set(NAMES)) == len(NAMES) > 0
    for row in SPEEDUPS:
        functions = [f"apply_to_{thing}" for thing in ("model", "optimizer", "process")]
        assert any(hasattr(row.module(), name) for name in functions), row.name


@pytest.mark.parametrize("kind", ["AVX2", "AVX512", "CUDA"])
def test_SPEEDUPS_are_measured_on_kinds_that_are_known(kind):
    assert any(kind in row.auto for row in SPEEDUPS)
    assert {kind for row in SPEEDUPS for kind in row.auto} <= {"AVX2", "AVX512", "CUDA"}


def test_resolve_gives_the_rows_in_the_order_of_the_table():
    names = ["winograd", "channels_last", "malloc", "fold_norms"]
    expected = [row for row in SPEEDUPS if row.name in names]
    for given in (names, names[::-1], sorted(names), [*names, *names]):
        assert resolve(given) == expected
    assert resolve(()) == [] and resolve(NAMES[::-1]) == list(SPEEDUPS)


def raise_on_unknown(names):
    cfg = tiny_cfg(MODEL__QUERYINST__SPEEDUPS=names)
    yield lambda: resolve(names)
    yield lambda: build_model(cfg)
    yield lambda: check_run(cfg, training=True)
    yield lambda: check_run(cfg, training=False, resume=False)


@pytest.mark.parametrize("names", [("winogrand",), ("auto", "winogrand", "winograd"), ("",)])
def test_resolve_refuses_an_unknown_name_and_lists_the_known_ones(names):
    unknown = next(name for name in names if name not in ("auto", *NAMES))
    for run in raise_on_unknown(names):
        with pytest.raises(ValueError) as error:
            run()
        message = str(error.value)
        assert message.startswith(repr(unknown)) and "MODEL.QUERYINST.SPEEDUPS" in message
        assert "\n" not in message and all(name in message for name in ("auto", *NAMES))


@pytest.mark.parametrize("kind", ["AVX2", "AVX512", "DEFAULT", "NO AVX", "SVE256"])
def test_resolve_auto_takes_what_gains_on_the_processor(monkeypatch, kind):
    monkeypatch.setattr(table, "processor_kind", lambda: kind)
    expected = [row for row in SPEEDUPS if kind in row.auto or "CUDA" in row.auto]
    assert resolve(("auto",)) == expected
    others = [row for row in SPEEDUPS if row not in expected]
    for row in others:  # and what is named beside it
        assert resolve(("auto", row.name)) == [r for r in SPEEDUPS if r in expected or r == row]
    assert kind in ("AVX2", "AVX512") or "winograd" in {row.name for row in others}


@pytest.mark.parametrize(
    "capability, kind",
    [("AVX512", "AVX512"), ("AVX512_VNNI", "AVX512"), ("AVX2", "AVX2"), ("DEFAULT", "DEFAULT")],
)
def test_processor_kind_counts_all_of_AVX512_as_one(monkeypatch, capability, kind):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert table.processor_kind() == kind


@pytest.fixture
def fresh_speedups(monkeypatch):
    """Imports the folder `speedups` anew, as it would be without a row and its file."""
    for row in SPEEDUPS:
        row.module()
    monkeypatch.setattr(queryinst, "speedups", queryinst.speedups)  # to be restored

    def without(name: str):
        for module in [m for m in sys.modules if f"{m}.".startswith("queryinst.speedups.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, f"queryinst.speedups.{name}", None)  # cannot be imported
        package = importlib.import_module("queryinst.speedups")
        rows = tuple(row for row in package.SPEEDUPS if row.name != name)
        monkeypatch.setattr(package.table, "SPEEDUPS", rows)
        return package

    return without


@pytest.mark.parametrize("name", NAMES)
def test_SPEEDUPS_rows_can_be_deleted_with_their_file(name, fresh_speedups):
    package = fresh_speedups(name)
    assert package.resolve is not resolve
    with pytest.raises(ImportError):
        importlib.import_module(f"queryinst.speedups.{name}")
    rest = [other for other in NAMES if other != name]
    cfg = tiny_cfg(MODEL__QUERYINST__SPEEDUPS=rest)
    model = QueryInst(cfg)
    package.speed_up_model(model, rest)
    with EventStorage():
        losses = model.train()(random_batch((1,)))
    sum(losses.values()).backward()
    copied = package.optimize_for_inference(model.eval())
    with torch.no_grad():
        for predicting in (model, copied):
            assert predicting(random_batch((0,)))[0]["instances"].has("pred_masks")


@pytest.mark.parametrize("name", NAMES)
def test_SPEEDUPS_files_are_imported_by_the_table_alone(name):
    pattern = re.compile(rf"^\s*(from|import)\b.*\b{name}\b", re.MULTILINE)
    importing = [path for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())]
    assert importing == []
