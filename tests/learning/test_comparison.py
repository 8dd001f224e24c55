"""The comparison's tables, and which of its runs are still to be made."""

import argparse
import json
from pathlib import Path

import pytest

from dev.learning import compare
from dev.learning.compare import Cell, Comparison
from dev.learning.curves import draw_curves
from dev.learning.data_sets import DataSet
from dev.learning.tables import ablation_table, best_runs, goal_table


def record(model, mask_ap, *, lr=0.001, seed=1, data="shapes", weights="", label="", seconds=0.2):
    curve = [{"step": 5, "box_ap": 1.0, "mask_ap": 2.0}]
    curve.append({"step": 10, "box_ap": mask_ap - 1, "mask_ap": mask_ap})
    return {
        **{"model": model, "data": data, "weights": weights, "label": label, "lr": lr},
        **{"seed": seed, "steps": 10, "curve": curve, "seconds_per_step": seconds},
        "raw": {"box_ap": mask_ap - 1, "mask_ap": mask_ap} if label != "NMS" else None,
        "nms": {"box_ap": mask_ap + 5, "mask_ap": mask_ap + 6},
    }


RECORDS = [
    record("queryinst", 50.0, lr=0.001),
    record("queryinst", 40.0, lr=0.002),
    record("queryinst", 52.0, lr=0.001, seed=2),
    record("queryinst", 99.0, lr=0.002, seed=2),
    record("maskrcnn", 45.0),
    record("maskrcnn", 30.0, weights="maskrcnn_cells_9-steps_lr-1_seed-1"),
]


def test_best_runs_are_those_of_the_best_rate_of_the_first_seed():
    runs = best_runs([run for run in RECORDS if run["model"] == "queryinst"])
    assert [(run["lr"], run["seed"]) for run in runs] == [(0.001, 1), (0.001, 2)]


def test_goal_table_has_means_ranges_and_the_lead():
    rows = goal_table(RECORDS).splitlines()[2:]
    assert rows == [
        "| shapes | random weights | QueryInst | 10 | 0.001 | 2 | 50.0 (49.0 to 51.0) "
        "| 51.0 (50.0 to 52.0) |  |",
        "| shapes | random weights | Mask R-CNN | 10 | 0.001 | 1 | 44.0 (one seed) "
        "| 45.0 (one seed) | +6.0 |",
        "| shapes | cells | Mask R-CNN | 10 | 0.001 | 1 | 29.0 (one seed) | 30.0 (one seed) |  |",
    ]


def test_ablation_table_compares_the_seeds_that_both_have():
    records = [
        *(record("queryinst", 50.0 + seed, seed=seed, label="grid") for seed in (1, 2)),
        record("queryinst", 61.0, seed=1, label="denoising", seconds=0.3),
        record("queryinst", 62.0, seed=2, label="NMS"),
    ]
    assert ablation_table(records, "grid").splitlines()[2:] == [
        "| grid | 10 | 2 | 57.5 | 56.5 | 51.5 | 50.5 | 1.00 |",
        "| denoising | 10 | 1 | 67.0 (+10.0) | 66.0 (+10.0) | 61.0 | 60.0 | 1.50 |",
        "| NMS | 10 | 1 | 68.0 (+10.0) | 67.0 (+10.0) |  |  | 1.00 |",
    ]


def test_draw_curves_writes_the_same_file_twice(tmp_path):
    seconds = {model: {"shapes": 0.2} for model in ("queryinst", "maskrcnn")}
    for name in ("a.svg", "b.svg"):
        (tmp_path / name).mkdir()
        draw_curves(RECORDS, seconds, tmp_path / name / "curves.svg")
    first, second = ((tmp_path / name / "curves.svg").read_text() for name in ("a.svg", "b.svg"))
    assert first == second and "shapes, from other weights" in first and "Mask R-CNN" in first


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    def prepare(name, root):
        return DataSet(name, *[Path(root)] * 4, ("object",), ())

    seconds = tmp_path / "step_seconds.json"
    per_set = {name: 0.5 for name in compare.BUDGET}
    seconds.write_text(json.dumps({"seconds": {"queryinst": per_set}}))
    monkeypatch.setattr(compare, "prepare", prepare)
    monkeypatch.setattr(compare, "SECONDS", seconds)
    monkeypatch.setattr(compare, "RATES", {"queryinst": (0.1, 0.2)})
    return Comparison(argparse.Namespace(datasets=str(tmp_path), output=str(tmp_path / "runs")))


def finish(comparison, cell, lr, seed, mask_ap):
    run = comparison.run(cell, lr, seed)
    Path(run.output).mkdir(parents=True)
    done = record("queryinst", mask_ap, lr=lr, seed=seed)
    Path(run.output, "record.json").write_text(json.dumps(done))


def test_next_runs_has_all_rates_first_then_the_other_seeds_of_the_best(comparison):
    cell = Cell("queryinst", "coins", False)
    assert [(run.lr, run.seed) for run in comparison.next_runs([cell])] == [(0.1, 1), (0.2, 1)]
    assert comparison.run(cell, 0.1, 1).steps == compare.BUDGET["coins"] / 0.5
    finish(comparison, cell, 0.1, 1, 20.0)
    assert [(run.lr, run.seed) for run in comparison.next_runs([cell])] == [(0.2, 1)]
    finish(comparison, cell, 0.2, 1, 30.0)
    assert [(run.lr, run.seed) for run in comparison.next_runs([cell])] == [(0.2, 2), (0.2, 3)]
    for seed in (2, 3):
        finish(comparison, cell, 0.2, seed, 1.0)
    assert not list(comparison.next_runs([cell]))
    assert len(comparison.records([cell])) == 4


def test_next_runs_from_other_weights_wait_for_these_and_for_the_best_rate(comparison):
    cell = Cell("queryinst", "coins", True)
    assert not list(comparison.next_runs([cell]))
    source = Cell("queryinst", "shapes", False)
    for lr in (0.1, 0.2):
        finish(comparison, source, lr, 1, 100 * lr)
    assert not list(comparison.next_runs([cell]))
    for lr in (0.1, 0.2):
        finish(comparison, cell._replace(pretrained=False), lr, 1, -lr)
    (first,) = comparison.next_runs([cell])
    assert (first.lr, first.seed) == (0.1, 1)
    assert Path(first.weights).parent == Path(comparison.run(source, 0.2, 1).output)
    assert first.described()["weights"].startswith("queryinst_shapes_")
