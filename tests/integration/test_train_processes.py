"""Runs in processes of their own: exit status, stderr, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "train_net.py: error: "


@pytest.fixture
def start(make_args, tmp_path, tiny_data):
    """A function that runs a Python program in another folder, as a user would."""
    flags = ["--config-file", make_args().config_file]
    for triple in tiny_data.dataset_args:
        flags += ["--dataset", *triple]

    def start(*program, opts=(), ours=flags):
        environment = {"PYTHONPATH": str(ROOT / "projects" / "QueryInst"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *map(str, [*program, *ours, *opts])],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return start


@pytest.mark.parametrize("norm, num_parts", [("naiveSyncBN", 1), ("GN", 2)])
def test_run_trains_the_same_in_two_processes(start, tmp_path, norm, num_parts):
    script = Path(__file__).with_name("two_processes.py")
    done = start(script, tmp_path, norm, num_parts, ours=())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("parameters are equal")


def test_run_prints_one_line_and_a_status_if_it_fails(start, tmp_path):
    done = start(ROOT / "train_net.py", opts=["MODEL.WEIGHTS", "gone.pth"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{PREFIX}MODEL.WEIGHTS gone.pth does not exist"
    assert "Traceback" not in done.stderr + done.stdout
    assert "FileNotFoundError" in (tmp_path / "output" / "log.txt").read_text()


def test_run_prints_one_line_if_one_of_two_processes_fails(start, tmp_path):
    """Both train a step, which spoils the weights, and start the next."""
    opts = ("SOLVER.BASE_LR", 1e30, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.IMS_PER_BATCH", 4)
    done = start(ROOT / "train_net.py", "--num-gpus", 2, "--dist-url", "auto", opts=opts)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"{PREFIX}iteration 1: ") and lines[-1].count(".png") >= 2
    assert sum(line.startswith(PREFIX) for line in lines) == 1
    assert "Traceback" not in done.stderr + done.stdout
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000000.pth"
    logs = [(output / name).read_text() for name in ("log.txt", "log.txt.rank1")]
    assert any("FloatingPointError" in log for log in logs)
    assert "World size: 2" in logs[0]


def test_run_works_under_torchrun(start, tmp_path):
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    opts = ("DATASETS.TEST", "('tiny_val',)", "SOLVER.MAX_ITER", 1)
    done = start(*program, ROOT / "train_net.py", opts=opts)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "output"
    assert "World size: 2" in (output / "log.txt").read_text()
    assert set(json.loads((output / "results.json").read_text())["tiny_val"]) == {"bbox", "segm"}
    predictions = json.loads(
        (output / "inference" / "tiny_val" / "coco_instances_results.json").read_text()
    )
    assert {row["image_id"] for row in predictions} == {1, 2, 3, 4}  # each process has half of them
    assert done.stdout.count("Results, in full in") == 1


def test_run_names_the_process_that_hangs(start, tmp_path):
    opts = ("DISTRIBUTED.TIMEOUT_MINUTES", 0.1, "SOLVER.CHECKPOINT_PERIOD", 1)
    script = Path(__file__).with_name("hanging_process.py")
    done = start(script, "--num-gpus", 2, "--dist-url", "auto", opts=opts)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert sum("error: " in line for line in lines) == 1
    assert lines[-1].startswith(f"{PREFIX}rank 1 did not arrive within 0.1 minutes where rank 0")
    assert lines[-1].endswith("or raise DISTRIBUTED.TIMEOUT_MINUTES")
    assert "Traceback" not in done.stderr + done.stdout
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000000.pth"
    assert "imed out" in (output / "log.txt").read_text()  # gloo's own words
