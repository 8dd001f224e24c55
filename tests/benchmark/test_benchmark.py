"""The benchmark of a tiny model: every part is there, they sum to the whole, and JSON holds all."""

import json

import pytest
import torch

from queryinst.benchmark import Case, run_case
from queryinst.benchmark.inputs import random_inputs
from queryinst.benchmark.measuring import Measurement
from queryinst.benchmark.parts import INFERENCE, OTHER, TRAINING, _replaced, measure_parts
from queryinst.benchmark.report import describe_result
from queryinst.benchmark.subjects import build_subject
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


def test_every_part_is_measured(result):
    parts = result.parts
    assert tuple(parts) == (*PARTS[result.case.task], OTHER)
    assert all(seconds > 0 for seconds in parts.values())


@pytest.mark.parametrize("task", ["inference", "training"])
def test_parts_sum_to_the_whole_and_little_is_left(task):
    subject = subject_of(task)
    clock = iter(range(100_000))
    # A clock that counts its own readings: a part is as long as it and its neighbours are read.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("queryinst.benchmark.parts.time.perf_counter", lambda: float(next(clock)))
        parts = measure_parts(subject, device="cpu", repeats=1)
        readings = next(clock)
    assert sum(parts.values()) == readings - 1
    seconds = measure_parts(subject, device="cpu", repeats=3)
    assert seconds[OTHER] < 0.3 * sum(seconds.values())  # tiny modules leave much to Python


def test_measuring_parts_changes_nothing():
    subject = subject_of("inference")
    before = subject.run()[0]["instances"]
    own = dict(vars(subject.model.cascade))
    measure_parts(subject, device="cpu", repeats=1)
    assert vars(subject.model.cascade).keys() == own.keys()
    after = subject.run()[0]["instances"]
    assert torch.equal(before.scores, after.scores)


def test_what_was_replaced_comes_back_after_an_error():
    class Owner:
        def call(self):
            return "class's"

    owner = Owner()
    with pytest.raises(RuntimeError):
        with _replaced(owner, "call", lambda: "other"):
            assert owner.call() == "other"
            raise RuntimeError
    assert owner.call() == "class's" and "call" not in vars(owner)


def test_the_json_holds_everything_and_comes_back(result):
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


def test_the_terminal_shows_each_part_and_the_load(result):
    text = "\n".join(describe_result(result))
    assert all(f"  {part}" in text for part in result.parts)
    assert "GB at the peak" in text and "cores" in text and "images/s" in text


def test_training_trains_as_the_trainer_does():
    subject = subject_of("training")
    parameter = subject.model.cascade.stages[0].cls_logits.weight
    before = parameter.detach().clone()
    first, second = subject.run(), subject.run()
    assert first.keys() == second.keys() and len(first) == 2 * 4  # stages, losses
    assert not torch.equal(parameter, before) and first != second
    again = subject_of("training")
    assert again.run() == first  # the same inputs and weights in every run


def test_detections_fill_the_output_picture():
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
def test_impossible_cases_are_refused(change, named):
    case = Case(**{"task": "inference", "size": SIZE, "parts": 0, **change})
    with pytest.raises(ValueError, match=named):
        run_case(tiny_cfg(), case)


def test_inputs_are_the_same_in_every_run_and_objects_fill_their_boxes():
    kwargs = dict(num_instances=4, num_classes=3)
    first, second = (random_inputs(2, SIZE, **kwargs) for _ in range(2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second))
    instances = first[0]["instances"]
    for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        inner = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (inner - box).abs().max() <= 2.5
        assert mask.sum() == pytest.approx(0.785 * (box[2:] - box[:2]).prod(), rel=0.25)


def test_no_instances_are_no_problem():
    assert len(random_inputs(1, SIZE, num_instances=0, num_classes=3)[0]["instances"]) == 0
