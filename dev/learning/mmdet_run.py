"""A run of mmdet_side: its file, and MMDetection's schedule for its steps; no MMDetection."""

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

from queryinst.json_files import read_json

_WARMUP_STEPS = 1000  # of MMDetection's 87,960


@dataclass(frozen=True)
class Run:
    """What a run's file holds.

    Attributes:
        class_names: of both files, in the order of the categories' ids.
        options: key, value, key, value, ... of Detectron2's INPUT alone.
        batch: images a step.
        lr: of all but the trunk, which learns at `backbone_multiplier` times that.
        eval_steps: after how many steps AP is measured; 0 is before the first.
        weights: a `final.pth` of an earlier run to start from; "" for random ones.
        backbone_multiplier: MMDetection's own is 0.1, for a trunk that ImageNet taught. 1 is
            fairer to one that starts from random weights, and would hardly learn at a tenth.
    """

    train_json: str
    train_images: str
    val_json: str
    val_images: str
    class_names: list
    options: list
    steps: int
    batch: int
    lr: float
    seed: int
    eval_steps: list
    output: str
    weights: str = ""
    num_queries: int = 100
    backbone_multiplier: float = 1.0


def read_run(path: str) -> Run:
    """Read and check a run's file.

    Raises:
        OSError, ValueError: it cannot be read, or a value is wrong. One line.
    """
    values = read_json(path, dict)
    known = {field.name: field for field in fields(Run)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    if unknown := values.keys() - known.keys():
        raise ValueError(f"{path}: no run has the key {min(unknown)!r}")
    if missing := needed - values.keys():
        raise ValueError(f"{path}: the key {min(missing)!r} is missing")
    for name, value in values.items():
        _check_type(path, name, value, known[name].type)
    run = Run(**values)
    _check_values(path, run)
    return run


def _check_type(path: str, name: str, value: Any, wanted: Any) -> None:
    types = (int, float) if wanted is float else wanted
    if isinstance(value, bool) or not isinstance(value, types):
        raise ValueError(f"{path}: {name} {value!r} must be of type {wanted.__name__}")


def _check_values(path: str, run: Run) -> None:
    for name, least in (("steps", 1), ("batch", 1), ("seed", 0), ("num_queries", 1)):
        if (value := getattr(run, name)) < least:
            raise ValueError(f"{path}: {name} {value} must be at least {least}")
    for name in ("lr", "backbone_multiplier"):
        if not (math.isfinite(value := getattr(run, name)) and value > 0):
            raise ValueError(f"{path}: {name} {value} must be finite and above 0")
    for step in run.eval_steps:
        if type(step) is not int or not 0 <= step <= run.steps:
            raise ValueError(f"{path}: eval_steps has {step!r}, no step from 0 to {run.steps}")
    for key in run.options[::2]:
        if not str(key).startswith("INPUT."):
            raise ValueError(f"{path}: options has {key!r}; MMDetection takes INPUT's keys alone")


class Schedule(NamedTuple):
    warmup: int  # steps of the linear warm-up
    drops: tuple[int, int]  # the steps from which the rate is a tenth, and a hundredth


def scale_schedule(steps: int) -> Schedule:
    """MMDetection's 1x schedule of 12 epochs, which drops after 8 and 11, for this many steps.

    Its warm-up of 1,000 steps is at most a tenth of the run.
    """
    return Schedule(min(_WARMUP_STEPS, steps // 10), (steps * 8 // 12, steps * 11 // 12))
