"""One configuration on a tiny model: the terminal and JSON hold all; steps are real ones."""

import json

import pytest
import torch

from dev.benchmark import command
from dev.benchmark.subjects import build_subject
from queryinst.testing import tiny_cfg

SIZE = (64, 96)


def subject_of(task, cfg=None):
    return build_subject(
        cfg or tiny_cfg(), task, num_images=1, size=SIZE, output_size=SIZE, num_instances=3
    )


@pytest.fixture
def run(monkeypatch, untouched_logging):
    """The command line on the tiny model."""
    monkeypatch.setattr(command, "setup_cfg", lambda *args, **kwargs: tiny_cfg())
    monkeypatch.setattr(command, "speed_up_process", lambda cfg: None)  # the process outlives it
    fixed = "--config-file tiny --size 64x96 --output-size 40x60 --instances 3 --repeats 2"
    return lambda *args: command.main([*fixed.split(), *map(str, args)])


def test_main_prints_and_writes_everything(run, tmp_path, capsys):
    out = tmp_path / "result.json"
    assert run("--json", out) == 0
    printed = capsys.readouterr().out
    for task, batch in (("inference", 1), ("training", 2)):
        assert f"{task}: {batch} x 64x96" in printed
    assert all(word in printed for word in ("GB at the peak", "cores", "images/s", "total_loss"))
    assert f"torch {torch.__version__.split('+')[0]}" in printed and "processor" in printed
    inference, training = json.loads(out.read_text())
    assert inference["output"]["detections"] > 0 and training["output"]["total_loss"] > 0
    for result, batch in ((inference, 1), (training, 2)):
        assert result.keys() == {
            "task", "batch", "size", "output_size", "instances", "measurement",
            "images_per_second", "model", "output", "hardware", "versions",
        }  # fmt: skip
        assert result["images_per_second"] == pytest.approx(batch / result["measurement"]["median"])
        assert len(result["measurement"]["seconds"]) == 2
        assert result["versions"]["torch"].startswith(torch.__version__.split("+")[0])
        assert result["hardware"]["threads"] == torch.get_num_threads()


def test_main_profiles_on_request(run, capsys):
    assert run("--task", "inference", "--profile", 5) == 0
    printed = capsys.readouterr().out
    assert "Self CPU %" in printed and "aten::" in printed


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--batch", 0], "--batch"),
        (["--instances", -1], "--instances"),
        (["--repeats", 0], "--repeats"),
    ],
)
def test_main_refuses_impossible_values(run, args, named, capsys):
    assert run(*args) == 1
    assert named in capsys.readouterr().err


def test_main_needs_something_to_measure(capsys):
    assert command.main([]) == 1
    assert "--config-file or --speedups" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["800", "0x8", "8x", "axb"])
def test_read_size_refuses_what_is_none(size, run):
    with pytest.raises(SystemExit):
        run("--size", size)


def test_build_subject_trains_as_the_trainer_does():
    subject = subject_of("training")
    parameter = subject.model.cascade.stages[0].cls_logits.weight
    before = parameter.detach().clone()
    first, second = subject.run(), subject.run()
    assert first.keys() == second.keys() and len(first) == 2 * 4  # stages, losses
    assert not torch.equal(parameter, before) and first != second
    again = subject_of("training")
    assert again.run() == first  # the same inputs and weights in every run


@pytest.mark.parametrize("num_instances", [0, 3])
def test_build_subject_detects_in_the_output_picture(num_instances):
    subject = build_subject(
        tiny_cfg(TEST__DETECTIONS_PER_IMAGE=5),
        "inference",
        num_images=2,
        size=SIZE,
        output_size=(33, 50),
        num_instances=num_instances,
    )
    outputs = [output["instances"] for output in subject.run()]
    assert [tuple(o.pred_masks.shape[1:]) for o in outputs] == [(33, 50)] * 2
    assert all(0 < len(o) <= 5 for o in outputs)  # without those that lie outside
