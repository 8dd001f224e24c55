"""Runs that a signal or a fault ends: exit status, checkpoint, what is said."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dev.reliability.fault_runs import is_group_alive
from queryinst.engine import run
from queryinst.engine.run_lock import locked
from queryinst.modeling.meta_arch import QueryInst

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "train_net.py: error: "
TEST = ("DATASETS.TEST", "('tiny_val',)")
LONG = ("SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 0.001)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


@pytest.fixture
def in_step(monkeypatch):
    """A function that lets something happen in the n-th forward pass of training or evaluation."""
    forward = QueryInst.forward

    def let(number, action, training=True):
        passes = []

        def patched(self, batched_inputs):
            if self.training == training:
                passes.append(None)
                if len(passes) == number:
                    action()
            return forward(self, batched_inputs)

        monkeypatch.setattr(QueryInst, "forward", patched)
        return passes

    return let


def send(number):
    return lambda: os.kill(os.getpid(), number)


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def stderr_lines(capsys):
    return [x for x in capsys.readouterr().err.splitlines() if x.startswith("train_net.py")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_run_ends_behind_the_step_with_a_checkpoint(make_args, output, in_step, capsys, number):
    passes = in_step(2, send(number))
    assert run(make_args(*LONG, *TEST)) == 75
    assert len(passes) == 2 and stderr_lines(capsys) == []
    assert (output / "last_checkpoint").read_text() == "model_0000001.pth"
    saved = torch.load(output / "model_0000001.pth")
    assert saved["iteration"] == saved["trainer"]["iteration"] == 1
    log = (output / "log.txt").read_text()
    assert log.count("Stopped by") == 1 and f"{signal.Signals(number).name} after 2 of 4" in log
    assert [row["iteration"] for row in metrics(output)] == [1]  # written though none was due
    assert not (output / "results.json").exists()
    assert run(make_args(*LONG, resume=True)) == 0
    assert len(passes) == 4 and (output / "model_final.pth").exists()


def test_run_stops_again_and_again_and_keeps_few_checkpoints(make_args, output, in_step):
    opts = (*LONG, "SOLVER.CHECKPOINT_KEEP", 1)
    for last in (0, 1):
        in_step(1, send(signal.SIGUSR1))
        assert run(make_args(*opts, resume=True)) == 75
        assert [path.name for path in output.glob("model_*")] == [f"model_{last:07d}.pth"]


def test_run_leaves_an_evaluation_and_writes_the_checkpoint_first(
    make_args, output, in_step, capsys
):
    images = in_step(2, send(signal.SIGTERM), training=False)
    assert run(make_args(*LONG, *TEST, "TEST.EVAL_PERIOD", 1)) == 75
    assert len(images) == 2 and not (output / "results.json").exists()
    assert (output / "last_checkpoint").read_text() == "model_0000000.pth"
    assert not (output / "model_best.pth").exists()
    assert stderr_lines(capsys) == []


def test_run_leaves_the_final_evaluation_and_only_evaluates_after_a_resume(
    make_args, output, in_step
):
    images = in_step(2, send(signal.SIGUSR1), training=False)
    opts = (*TEST, "SOLVER.MAX_ITER", 1)
    assert run(make_args(*opts)) == 75
    assert len(images) == 2 and not (output / "results.json").exists()
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert run(make_args(*opts, resume=True)) == 0
    assert (output / "results.json").exists()
    assert (output / "log.txt").read_text().count(" iter: ") == 1


def test_run_ends_at_once_before_the_training_and_in_evaluation(
    make_args, output, in_step, monkeypatch, capsys
):
    assert run(make_args("SOLVER.MAX_ITER", 1)) == 0
    in_step(1, send(signal.SIGTERM), training=False)
    weights = ("MODEL.WEIGHTS", output / "model_final.pth")
    assert run(make_args(*TEST, *weights, eval_only=True)) == 143
    assert stderr_lines(capsys) == [f"{PREFIX}ended by SIGTERM"]
    monkeypatch.setattr("queryinst.engine.train_net.check_datasets", lambda *_, **__: send(2)())
    assert run(make_args()) == 130
    assert stderr_lines(capsys) == [f"{PREFIX}ended by SIGINT"]


def test_run_goes_on_with_a_new_line_behind_a_torn_one(make_args, output):
    output.mkdir()
    (output / "metrics.json").write_text('{"iteration": 7}\n{"iterat')
    assert run(make_args("SOLVER.MAX_ITER", 1)) == 0
    first, torn, *new = (output / "metrics.json").read_text().splitlines()
    assert torn == '{"iterat' and "total_loss" in json.loads(new[0])


@pytest.mark.parametrize(
    "name", ["log.txt", "metrics.json", "config.yaml", "model_0000000.pth.tmp"]
)
def test_run_ends_with_one_line_if_a_file_cannot_be_written(make_args, output, capsys, name):
    output.mkdir()
    (output / name).symlink_to("/dev/full")
    assert run(make_args(*LONG, "SOLVER.CHECKPOINT_PERIOD", 1)) == 1
    error = capsys.readouterr().err
    (line,) = [x for x in error.splitlines() if x.startswith("train_net.py")]
    assert line == error.splitlines()[-1] and "Traceback" not in error
    path = str(output / name).removesuffix(".tmp")
    assert line.startswith(f"{PREFIX}cannot write {path} (") and "room left" in line
    for checkpoint in output.glob("model_*.pth"):
        assert torch.load(checkpoint)["iteration"] >= 0
    assert name != "metrics.json" or (output / "model_final.pth").exists()


def test_run_names_the_predictions_that_a_full_disk_refuses(make_args, output, capsys, monkeypatch):
    def dumps(predictions):  # of the file that is open by then
        raise OSError(errno.ENOSPC, "No space left on device")

    fake = SimpleNamespace(dumps=dumps, load=json.load)
    monkeypatch.setattr("detectron2.evaluation.coco_evaluation.json", fake)
    assert run(make_args(*TEST, "SOLVER.MAX_ITER", 1)) == 1
    (line,) = stderr_lines(capsys)
    path = output / "inference" / "tiny_val" / "coco_instances_results.json"
    assert line.startswith(f"{PREFIX}cannot write {path} (No space left")
    assert torch.load(output / "model_final.pth")["iteration"] == 0
    assert not (output / "results.json").exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_run_says_that_its_folder_is_gone_and_saves_the_weights(
    make_args, output, in_step, capsys, replaced
):
    def remove():
        shutil.rmtree(output)
        if replaced:
            output.mkdir()

    passes = in_step(2, remove)
    assert run(make_args(*LONG)) == 1
    (line,) = stderr_lines(capsys)
    assert f"OUTPUT_DIR {str(output)!r} was removed or renamed" in line
    assert "after 2 iterations" in line
    assert torch.load(output / "model_0000001.pth")["iteration"] == 1
    assert run(make_args(*LONG, resume=True)) == 0 and len(passes) == 4


def test_run_saves_the_weights_if_its_folder_goes_in_the_final_evaluation(
    make_args, output, in_step, capsys
):
    in_step(1, lambda: shutil.rmtree(output), training=False)
    assert run(make_args(*TEST, "SOLVER.MAX_ITER", 1)) == 1
    assert "was removed or renamed" in stderr_lines(capsys)[0]
    assert torch.load(output / "model_final.pth")["iteration"] == 0


def test_run_refuses_a_folder_in_use_before_it_writes(make_args, output, capsys):
    output.mkdir()
    (output / "log.txt").write_text("the first run's\n")
    with locked(str(output)):
        before = {path.name: path.read_bytes() for path in output.iterdir()}
        for flags in ({}, {"eval_only": True}):
            assert run(make_args(**flags)) == 1
            (line,) = stderr_lines(capsys)
            assert f"is in use by process {os.getpid()} on " in line
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.fixture
def start(make_args, tmp_path, tiny_data):
    """A function that starts train_net.py in a process group of its own, and waits for a text."""
    started = []

    def start(*opts):
        flags = ["--config-file", make_args().config_file]
        for triple in tiny_data.dataset_args:
            if triple[0] == "tiny_train" or triple[0] in str(opts):
                flags += ["--dataset", *triple]
        environment = {"PYTHONPATH": str(ROOT / "projects" / "QueryInst"), "OMP_NUM_THREADS": "1"}
        with open(tmp_path / "stderr", "w") as stderr, open(tmp_path / "stdout", "w") as stdout:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "train_net.py"), *flags, *map(str, opts)],
                **{"stdout": stdout, "stderr": stderr, "cwd": tmp_path, "start_new_session": True},
                env={**os.environ, **environment},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_run_stops_all_of_two_processes_and_leaves_none(start, output, tmp_path):
    opts = ("SOLVER.MAX_ITER", 100_000, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 1)
    process = start("--num-gpus", 2, "--dist-url", "auto", *opts)
    wait_for(lambda: "iter: 40/" in (tmp_path / "stdout").read_text())
    os.kill(process.pid, signal.SIGINT)  # the launcher alone
    assert process.wait(60) == 75
    wait_for(lambda: not is_group_alive(process.pid), 10)
    assert not [x for x in (tmp_path / "stderr").read_text().splitlines() if "train_net.py" in x]
    last = torch.load(output / (output / "last_checkpoint").read_text())
    assert last["iteration"] >= 39
    (said,) = [x for x in (output / "log.txt").read_text().splitlines() if "Stopped by" in x]
    assert f"after {last['iteration'] + 1} of" in said
