"""The comparison with MMDetection fails on every kind of wrong answer, and its tables say so."""

import datetime
import json

import pytest
import torch

from dev.benchmark import comparison_report as report
from dev.benchmark.compare_with_mmdet import compare_outputs
from dev.benchmark.groups import GROUPS, MASK_RCNN, MMDET, OURS, UNIQUE_QUERIES
from dev.benchmark.measuring import Measurement
from dev.benchmark.verdict import (
    SINGLE,
    Check,
    check_unique,
    compare_detections,
    compare_losses,
    unique_queries,
)

CLASSES = 80


def detections(count=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "topk": torch.randperm(100 * CLASSES, generator=generator)[:count],
        "scores": torch.rand(count, generator=generator).sort(descending=True)[0],
        "boxes": torch.rand(count, 4, generator=generator) * 100,
        "masks": torch.rand(count, 40, 60, generator=generator) > 0.5,
    }


def changed(name, by):
    own = detections()
    value = own[name].clone()
    value[2] = ~value[2] if value.dtype == torch.bool else value[2] + by
    return {**own, name: value}


def is_equal(checks):
    return all(check.is_met for check in checks)


def test_compare_detections_passes_equal_ones_in_any_order():
    order = torch.tensor([1, 0, 2, 3, 5, 4])  # equal scores may change places
    shuffled = {key: value[order] for key, value in detections().items()}
    assert is_equal(compare_detections([shuffled], [detections()]))


def test_compare_detections_takes_the_best_of_an_unsorted_side():
    backwards = {key: value.flip(0) for key, value in detections().items()}
    assert is_equal(compare_detections([{k: v[:4] for k, v in detections().items()}], [backwards]))


def test_compare_detections_counts_the_best_as_many_of_the_other_side():
    assert is_equal(
        compare_detections([{k: v[:4] for k, v in detections().items()}], [detections()])
    )
    assert not is_equal(
        compare_detections([{k: v[1:4] for k, v in detections().items()}], [detections()])
    )


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("topk", 1),
        ("scores", 1e-3),
        ("scores", float("nan")),
        ("boxes", 0.2),
        ("boxes", float("nan")),
        ("masks", None),
    ],
)
def test_compare_detections_fails_a_wrong_one(name, by):
    assert not is_equal(compare_detections([changed(name, by)], [detections()]))


def test_compare_detections_fails_missing_ones_and_missing_images():
    assert not is_equal(compare_detections([detections()], [detections(5)]))
    assert not is_equal(compare_detections([detections()] * 2, [detections()]))
    apart = {**detections(), "topk": detections()["topk"] + 10**6}
    assert not is_equal(compare_detections([apart], [detections()]))


LOSSES = [
    {"loss_cls_stage0": 2.0, "loss_mask_stage0": 3.0},
    {"loss_cls_stage0": 1.9, "loss_mask_stage0": 2.9},
]


def test_compare_losses_passes_equal_ones():
    near = [{k: v * (1 + 1e-5) for k, v in step.items()} for step in LOSSES]
    assert is_equal(compare_losses(near, LOSSES))


@pytest.mark.parametrize(
    ("step", "name", "factor"),
    [
        (0, "loss_cls_stage0", 1.001),
        (0, "loss_mask_stage0", 1.01),
        (1, "loss_mask_stage0", 1.05),
        (0, "loss_mask_stage0", float("nan")),
        (1, "loss_mask_stage0", float("nan")),
    ],
)
def test_compare_losses_fails_a_wrong_one(step, name, factor):
    ours = [dict(losses) for losses in LOSSES]
    ours[step][name] *= factor
    assert not is_equal(compare_losses(ours, LOSSES))


def test_compare_losses_fails_missing_ones_and_missing_steps():
    assert not is_equal(compare_losses(LOSSES[:1], LOSSES))
    assert not is_equal(compare_losses([{"loss_cls_stage0": 2.0}], LOSSES[:1]))


def test_unique_queries_counts_each_once():
    topk = torch.tensor([5 * CLASSES, 5 * CLASSES + 1, 7 * CLASSES])
    assert unique_queries([{"topk": topk}], CLASSES) == [2]
    assert check_unique([50, 70], UNIQUE_QUERIES).is_met
    assert not check_unique([60, 71], UNIQUE_QUERIES).is_met


def test_compare_outputs_checks_our_sides_and_notes_what_was_computed():
    outputs = {MMDET: [detections()], OURS: [detections()], MASK_RCNN: "detections 100; how"}
    checks, notes = compare_outputs(GROUPS["inference-100"], outputs, SINGLE)
    assert [check.name.partition(": ")[0] for check in checks] == ["QueryInst"] * 5
    assert [check.is_met for check in checks] == [True] * 4 + [False]  # so few queries
    assert notes == ["QueryInst: unique kept queries 5", f"{MASK_RCNN.name}: detections 100; how"]
    outputs[OURS] = [changed("scores", 1e-3)]
    assert not compare_outputs(GROUPS["inference-100"], outputs, SINGLE)[0][1].is_met
    checks, notes = compare_outputs(GROUPS["training-100"], {MMDET: LOSSES, OURS: LOSSES}, SINGLE)
    assert len(checks) == 3 and is_equal(checks) and not notes


def measurement(seconds, peak, others=0.01):
    return Measurement(seconds, seconds, [seconds] * 3, [seconds] * 3, 10**9, peak, 1.9, others)


def outcome(our_seconds=1.0, our_peak=17 * 10**8, checks=(), others=0.01):
    turns = {
        MMDET.name: [measurement(2.5, 2 * 10**9), measurement(2.0, 2 * 10**9)],
        OURS.name: [measurement(our_seconds, our_peak, others), measurement(3.0, our_peak)],
        MASK_RCNN.name: [measurement(4.0, 10**9)],
    }
    notes = ["QueryInst: unique kept queries 60"]
    return report.Outcome("inference-100", GROUPS["inference-100"], turns, list(checks), notes, 2)


def test_ratios_are_of_the_least_medians():
    assert outcome().time(MMDET.name) == 2.0
    ours, mask_rcnn = GROUPS["inference-100"].rows
    assert report.ratios(outcome(), ours) == (0.5, 0.5, 0.85)
    assert report.ratios(outcome(), mask_rcnn) == (0.25, 0.25, 1.7)


@pytest.mark.parametrize(
    ("seconds", "peak", "words"),
    [
        (1.0, 17 * 10**8, ["0.72, reached", "0.60, reached", "0.95, reached"]),
        (1.3, 17 * 10**8, ["0.72, reached", "0.60, NOT REACHED", "0.95, reached"]),
        (1.6, 2 * 10**9, ["0.72, NOT REACHED", "0.60, NOT REACHED", "0.95, NOT REACHED"]),
        (1.0, None, ["0.72, reached", "0.60, reached", "0.95, unknown"]),
    ],
)
def test_ratio_table_marks_each_floor(seconds, peak, words):
    line = report.ratio_table([outcome(seconds, peak)]).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [cells[2], cells[3], cells[6]] == words


def test_summary_lines_say_whether_outputs_are_equal_and_how_quiet_it_was():
    good = report.Record([outcome()], "cpu", False, 3.0, {})
    assert "outputs equal" in report.summary_lines(good)[-1]
    assert "1 % of the cores (quiet)" in report.summary_lines(good)[-1]
    wrong = outcome(checks=[Check("scores", 0.5, 1e-4)], others=0.4)
    text = report.summary_lines(report.Record([wrong], "cpu", False, 3.0, {}))[-1]
    assert "DIFFER: scores" in text and "40 % of the cores (NOT QUIET" in text


def test_write_makes_a_page_and_data(tmp_path):
    record = report.Record([outcome()], "cpu", False, 3.0, {"mmdet": "3.3.0"})
    page, data = report.write(record, tmp_path, datetime.date(2026, 1, 2))
    assert page.stem == data.stem and page.stem.startswith("2026-01-02-")
    assert page.stem.endswith("-2-threads")
    text = page.read_text()
    assert "mmdet 3.3.0" in text and "unique kept queries 60" in text and "make benchmark" in text
    values = json.loads(data.read_text())
    (group,) = values["groups"]
    row, _ = group["ratios"]
    assert (row["time"], row["cpu_time"], row["memory"]) == (0.5, 0.5, 0.85)
    assert row["title"] == "inference, 100 queries"
    assert group["sides"][MMDET.name][1]["median"] == 2.0


def test_groups_ask_for_the_agreed_ratios():
    rows = {row.title: row for group in GROUPS.values() for row in group.rows}
    floors = [(r.time_floor, r.memory_floor, r.aim) for r in rows.values() if r.time_floor]
    assert floors == [
        (0.72, 0.95, 0.60), (0.50, 0.90, 0.42), (0.65, 1.0, 0.55), (0.60, 0.95, 0.42),
    ]  # fmt: skip
    checkpointing = [r.memory_floor for title, r in rows.items() if "checkpointing" in title]
    assert checkpointing == [0.8, 0.75]
    for group in GROUPS.values():
        assert {row.side for row in group.rows} <= {side.name for side in group.sides}
