"""Growth over one thing, of tiny models."""

import pytest

from queryinst.benchmark.growth import AXES, Axis, Growth, measure_growth
from queryinst.benchmark.growth_report import describe, growth_table, write_growth
from queryinst.benchmark.main import Case, Result
from queryinst.benchmark.measuring import Load, Measurement
from queryinst.testing import tiny_cfg

QUERIES = Axis(
    "queries", "inference", (4, 8), key="MODEL.QUERYINST.NUM_QUERIES", size=(64, 96)
)  # fmt: skip


def made_up(parts, peak=2_000_000_000):
    seconds = sum(parts.values())
    measurement = Measurement([seconds], [seconds], 10**9, peak, Load(2, 2.0, 0.02))
    model = {"queries": 100, "classes": 80}
    output = {"unique_queries": 60}
    case, hardware, versions = Case("inference").filled(), {"cores": 2}, {"torch": "2"}
    return Result(case, measurement, parts, model, hardware, versions, output)


def test_two_points_give_a_page_and_a_plot(tmp_path):
    told = []
    growths = list(measure_growth(tiny_cfg(), (QUERIES,), told.append, own_process=False))
    assert told == ["inference: queries 4", "inference: queries 8"]
    assert [result.model["queries"] for result in growths[0].results] == [4, 8]
    page, picture = write_growth(growths, tmp_path / "new", "2026-01-01-growth")
    text = page.read_text()
    assert f"]({picture.name})" in text and "| 8 |" in text and "64x96" in text
    svg = picture.read_text()
    assert all(word in svg for word in ("queries", "seconds", "peak memory [GB]", "RoIAlign"))
    assert len(svg) < 50_000


def test_a_value_in_a_process_of_its_own_is_measured_alike():
    axis = Axis("instances", "training", (2,), field="instances", size=(64, 64))
    (growth,) = measure_growth(tiny_cfg(), (axis,), lambda what: None)
    assert growth.results[0].case.instances == 2
    assert growth.results[0].output["total_loss"] > 0


def test_a_part_that_grows_faster_than_the_work_is_named():
    slow = made_up({"backbone": 1.0, "box heads": 0.5, "paste": 0.01, "other": 0.1})
    fast = made_up({"backbone": 2.0, "box heads": 3.0, "paste": 0.1, "other": 5.0})
    growth = Growth(QUERIES, [slow, fast])  # the work doubles; the paste is of no weight
    assert growth.faster_than_work() == {"box heads": pytest.approx(3.0)}
    assert describe(growth)[-1] == "Grew more than the work did: box heads 3.00 times."
    level = Growth(QUERIES, [slow, slow])
    assert "No part" in describe(level)[-1]


def test_the_table_says_what_dominates():
    rows = growth_table(Growth(QUERIES, [made_up({"backbone": 3.0, "FPN": 1.0})] * 2))
    assert rows[2] == "| 4 | 4.000 s | 2.00 GB | 60 | backbone 75 %, FPN 25 % |"


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.slug)
def test_an_axis_varies_one_thing(axis):
    cases = [axis.case(value).filled() for value in axis.values]
    opts = [axis.opts(value) for value in axis.values]
    assert list(axis.values) == sorted(set(axis.values))
    differing = [name for name in vars(cases[0]) if len({getattr(c, name) for c in cases}) > 1]
    varied_keys = [key for key, *values in zip(opts[0], *opts) if len(set(map(str, values))) > 1]
    assert len(differing) + len(varied_keys) == 1
    assert axis.work(2) == (4 if axis.name == "image size" else 2)


def test_the_ranges_are_wide():
    ranges = {axis.slug: (axis.values[0], axis.values[-1]) for axis in AXES}
    assert ranges["queries-inference"] == (50, 1000)
    assert ranges["image-size-inference"] == (320, 1600)
    assert ranges["instances-training"] == (1, 300)
    assert ranges["classes-inference"] == ranges["classes-training"] == (1, 1203)
