"""One case on a tiny model: every part is there, they sum to the whole, and JSON holds all."""

import json
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from dev.benchmark.case import Case, run_case
from dev.benchmark.measuring import Measurement
from dev.benchmark.parts import INFERENCE, OTHER, TRAINING, measure_parts, own_seconds
from dev.benchmark.random_inputs import random_inputs
from dev.benchmark.subjects import build_subject
from dev.benchmark.text import describe_result
from queryinst.testing import tiny_cfg

SIZE = (64, 96)
PARTS = {"inference": INFERENCE, "training": TRAINING}


@pytest.fixture(scope="module", params=["inference", "training"])
def result(request):
    case = Case(request.param, size=SIZE, output_size=(40, 60), instances=3, repeats=2, parts=1)
    return run_case(tiny_cfg(), case)


def subject_of(task, cfg=None):
    return build_subject(
        cfg or tiny_cfg(), task, num_images=1, size=SIZE, output_size=SIZE, num_instances=3
    )


def test_measure_parts_has_every_part(result):
    parts = result.parts
    assert tuple(parts) == (*PARTS[result.case.task], OTHER)
    assert all(seconds > 0 for seconds in parts.values())


@pytest.mark.parametrize("task", ["inference", "training"])
def test_measure_parts_sums_to_the_whole_and_leaves_little(task):
    start = time.perf_counter()
    seconds = measure_parts(subject_of(task), device="cpu", repeats=3)
    assert 0 < sum(seconds.values()) < time.perf_counter() - start
    assert seconds[OTHER] < 0.3 * sum(seconds.values())  # tiny modules leave much to Python


def event(name, microseconds, around=None):
    return SimpleNamespace(name=name, cpu_time_total=microseconds, cpu_parent=around)


def test_own_seconds_are_without_the_parts_inside():
    step = event("part: other", 100e6)
    operator = event("aten::add", 95e6, step)
    heads = event("part: box heads", 50e6, operator)
    pooling = [event("part: RoIAlign", 20e6, heads), event("part: RoIAlign", 5e6, heads)]
    backward = event("part: backward", 30e6, step)
    anew = event("part: box heads", 12e6, backward)
    again = event("part: RoIAlign", 3e6, anew)
    other_thread = event("part: RoIAlign", 7e6)  # a backward pass of its own
    events = [step, operator, heads, *pooling, backward, anew, again, other_thread]
    assert own_seconds(events) == {"other": 20, "box heads": 25, "RoIAlign": 25, "backward": 30}


def test_measure_parts_changes_nothing():
    subject = subject_of("inference")
    before = subject.run()[0]["instances"]
    own = dict(vars(subject.model.cascade))
    measure_parts(subject, device="cpu", repeats=1)
    assert vars(subject.model.cascade).keys() == own.keys()
    after = subject.run()[0]["instances"]
    assert torch.equal(before.scores, after.scores)


def test_measure_parts_leaves_nothing_behind_after_an_error():
    subject = subject_of("inference")
    places = [(subject.model.cascade, "forward"), (torch.Tensor, "backward")]
    before = [getattr(owner, name) for owner, name in places]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
        patch.setattr(subject, "run", mock.Mock(side_effect=RuntimeError("on purpose")))
        measure_parts(subject, device="cpu", repeats=1)
    assert [getattr(owner, name) for owner, name in places] == before
    assert "forward" not in vars(subject.model.cascade)


def test_result_to_dict_holds_everything_and_comes_back(result):
    values = json.loads(json.dumps(result.to_dict()))
    assert values.keys() == {
        "case", "measurement", "parts", "model", "hardware", "versions", "output",
        "images_per_second",
    }  # fmt: skip
    batch = {"inference": 1, "training": 2}[result.case.task]
    assert values["case"]["batch"] == batch
    median = values["measurement"]["median"]
    assert values["images_per_second"] == pytest.approx(batch / median)
    assert values["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert values["hardware"]["threads"] == torch.get_num_threads()
    assert Measurement.from_dict(values["measurement"]) == result.measurement


def test_describe_result_has_each_part_and_the_load(result):
    text = "\n".join(describe_result(result))
    assert all(f"  {part}" in text for part in result.parts)
    assert "GB at the peak" in text and "cores" in text and "images/s" in text


def test_build_subject_trains_as_the_trainer_does():
    subject = subject_of("training")
    parameter = subject.model.cascade.stages[0].cls_logits.weight
    before = parameter.detach().clone()
    first, second = subject.run(), subject.run()
    assert first.keys() == second.keys() and len(first) == 2 * 4  # stages, losses
    assert not torch.equal(parameter, before) and first != second
    again = subject_of("training")
    assert again.run() == first  # the same inputs and weights in every run


def test_build_subject_detects_in_the_output_picture():
    cfg = tiny_cfg(TEST__DETECTIONS_PER_IMAGE=5)
    subject = build_subject(
        cfg, "inference", num_images=2, size=SIZE, output_size=(33, 50), num_instances=0
    )
    outputs = subject.run()
    assert [tuple(o["instances"].pred_masks.shape) for o in outputs] == [(5, 33, 50)] * 2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"task": "sleep"}, "--task"), ({"batch": -1}, "batch"), ({"repeats": 0}, "--repeats")],
)
def test_run_case_refuses_impossible_cases(change, named):
    case = Case(**{"task": "inference", "size": SIZE, "parts": 0, **change})
    with pytest.raises(ValueError, match=named):
        run_case(tiny_cfg(), case)


def test_random_inputs_are_equal_in_every_run_and_fill_their_boxes():
    kwargs = dict(num_instances=4, num_classes=3)
    first, second = (random_inputs(2, SIZE, **kwargs) for _ in range(2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second))
    instances = first[0]["instances"]
    for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        inner = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (inner - box).abs().max() <= 2.5
        assert mask.sum() == pytest.approx(0.785 * (box[2:] - box[:2]).prod(), rel=0.25)


def test_random_inputs_without_instances():
    assert len(random_inputs(1, SIZE, num_instances=0, num_classes=3)[0]["instances"]) == 0
