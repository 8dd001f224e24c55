"""A run's file is checked; MMDetection's schedule fits any number of steps."""

import json
import re

import pytest

from dev.learning.mmdet_run import read_run, scale_schedule

VALUES = {
    "train_json": "train.json",
    "train_images": "train",
    "val_json": "val.json",
    "val_images": "val",
    "class_names": ["coin"],
    "options": ["INPUT.MIN_SIZE_TEST", 128],
    "steps": 20,
    "batch": 4,
    "lr": 1,
    "seed": 0,
    "eval_steps": [0, 20],
    "output": "out",
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "run.json"
        values = {key: x for key, x in (VALUES | changes).items() if x is not None}
        path.write_text(json.dumps(values))
        return str(path)

    return write


def test_read_run_fills_in_mmdetections_queries(write):
    run = read_run(write(weights="a/final.pth"))
    assert (run.num_queries, run.weights, run.output) == (100, "a/final.pth", "out")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lr": None}, "the key 'lr' is missing"),
        ({"rate": 1}, "no run has the key 'rate'"),
        ({"steps": 2.5}, "steps 2.5 must be of type int"),
        ({"steps": True}, "steps True must be of type int"),
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"lr": -1e-3}, "lr -0.001 must be finite and above 0"),
        ({"lr": float("nan")}, "lr nan must be finite and above 0"),
        ({"eval_steps": [21]}, "eval_steps has 21, no step from 0 to 20"),
        ({"options": ["SOLVER.BASE_LR", 1]}, "options has 'SOLVER.BASE_LR'"),
    ],
)
def test_read_run_names_what_is_wrong(write, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_run(write(**changes))


@pytest.mark.parametrize(
    "steps, warmup, drops",
    [(87960, 1000, (58640, 80630)), (2400, 240, (1600, 2200)), (300, 30, (200, 275))],
)
def test_scale_schedule_is_mmdetections_own_at_its_length(steps, warmup, drops):
    """Which is 12 epochs of 7,330 steps, with drops after 8 and 11."""
    assert scale_schedule(steps) == (warmup, drops)
