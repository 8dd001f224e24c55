"""Runs in processes of their own: exit status, stderr, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SHAPES, SIDE, draw
from PIL import Image
from pycocotools import mask as rle

ROOT = Path(__file__).resolve().parents[2]
MANY = ROOT / "tests" / "integration" / "many_processes.py"
PREFIX = "train_net.py: error: "


@pytest.fixture
def start(make_args, tmp_path, tiny_data):
    """A function that runs a Python program in another folder, as a user would."""
    train, val = tiny_data.dataset_args
    flags = ["--config-file", make_args().config_file, "--dataset", *train]

    def start(*program, opts=(), ours=flags):
        ours = [*ours, "--dataset", *val] if val[0] in str(opts) else ours
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


def test_run_trains_the_same_in_many_processes(start, tmp_path):
    cases = ("naiveSyncBN:2:1", "naiveSyncBN:2:2", "naiveSyncBN:4:2", "GN:4:2")
    done = start(MANY, "training", tmp_path, *cases, ours=())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4 cases are equal"


def test_skip_nonfinite_is_decided_by_all_processes_alike(start, tmp_path):
    done = start(MANY, "skipping", tmp_path, ours=())
    assert done.returncode == 0, done.stderr
    files = "random_1.png, random_3.png, random_5.png, random_7.png"
    left_out = [line for line in done.stdout.splitlines() if "SKIP_NONFINITE)" in line]
    assert len(left_out) == 3
    assert "iteration 0: rank 1: loss_cls_stage0 is nan" in left_out[0]
    assert "iteration 2: rank 1: stage 0, image 0 (random_1.png): " in left_out[1]
    assert all(files in line and "random_0.png" not in line for line in left_out[:2])
    assert "iteration 3: the norm of the gradients is nan, first that of initial" in left_out[2]
    line = done.stdout.splitlines()[-1]
    assert line.startswith("iteration 4: the norm of the gradients is nan, first that of initial")
    assert "in rank 0: images random_0.png" in line and "rank 1: images random_1.png" in line


def write_pictures(folder: Path, name: str, seeds: dict[int, int]) -> None:
    """A data set of these pictures, each with this seed of its noise."""
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": label, "name": str(label)} for label in range(len(SHAPES))]
    for seed, number in seeds.items():
        picture = draw(number, seed)
        image = {"id": seed, "file_name": f"{seed}.png", "height": SIDE, "width": SIDE}
        Image.fromarray(picture["image"].permute(1, 2, 0).numpy()).save(folder / f"{seed}.png")
        content["images"].append(image)
        instances = picture["instances"]
        for mask, label in zip(instances.gt_masks.tensor.numpy(), instances.gt_classes.tolist()):
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation = {"area": float(rle.area(code)), "bbox": rle.toBbox(code).tolist()}
            code["counts"] = code["counts"].decode()
            annotation |= {"id": len(content["annotations"]) + 1, "image_id": seed, "iscrowd": 0}
            annotation |= {"category_id": label, "segmentation": code}
            content["annotations"].append(annotation)
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_evaluate_gives_the_same_in_many_processes(start, tmp_path, overfitted):
    """Of 7 images the processes have different numbers; of one, all but one process have none."""
    write_pictures(tmp_path, "seven", {seed: seed % 4 for seed in range(7)})
    write_pictures(tmp_path, "one", {3: 3})
    weights = tmp_path / "weights.pth"
    torch.save({"model": overfitted.model.state_dict()}, weights)
    cases = ("seven:1", "seven:2", "seven:4", "one:1", "one:2")
    done = start(MANY, "evaluation", tmp_path, weights, *cases, ours=())
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[-5:]]
    assert [case for case, _ in lines] == list(cases)
    assert all(float(ap) > 50 for _, ap in lines)


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
