"""Data in each format, from the check to a prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.engine import defaults

from queryinst.data.mapper import build_mapper
from queryinst.own_data.sources import read_data
from queryinst.testing import tiny_cfg
from queryinst_cli import main

CLASSES = ["bolt", "nut", "washer"]
OPTS = (
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MIN_SIZE_TEST", "32"),
    *("SOLVER.IMS_PER_BATCH", "1", "SOLVER.CHECKPOINT_PERIOD", "20", "TEST.EVAL_PERIOD", "20"),
)


def trained_masks(split):
    """What a training sees of each image: (class, mask) of its objects."""
    cfg = tiny_cfg(INPUT__MIN_SIZE_TRAIN=(64,), INPUT__RANDOM_FLIP="none")
    mapper = build_mapper(cfg, is_train=True)
    found = {}
    for record in load_coco_json(split.json_file, split.image_root, split.json_file):
        instances = mapper(record)["instances"]
        names = [CLASSES[index] for index in instances.gt_classes.tolist()]
        masks = [mask.tobytes() for mask in instances.gt_masks.tensor.numpy()]
        found[Path(record["file_name"]).name] = sorted(zip(names, masks))
    return found


@pytest.mark.parametrize(
    "any_format", ["coco", "roboflow", "yolo", "labelme", "label images"], indirect=True
)
@pytest.mark.usefixtures("untouched_logging")
def test_a_folder_goes_through_check_train_eval_and_predict(
    any_format, expected, model_file, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "collect_env_info", lambda: "not looked at")  # takes a second
    for split in read_data(any_format):
        assert trained_masks(split) == expected[split.name]
    device = ("--device", "cpu")
    files = sorted(Path(any_format).rglob("*"))
    assert main(["data", "check", any_format, "--json", "check.json"]) == 0
    found = json.loads(Path("check.json").read_text())["problems"]
    assert not [problem for problem in found if problem["severity"] == "error"]
    words = ["--model", model_file, "--iterations", "20", "--output", "run", *device]
    assert main(["train", any_format, *words, "--opts", *OPTS]) == 0
    trained = str(tmp_path / "run" / "model_final.pth")
    # Beside the data, which stay as they are.
    assert main(["eval", any_format, "--model", trained, "--output", ".", *device]) == 0
    assert sorted(Path(any_format).rglob("*")) == files
    ((_, results),) = json.loads(Path("results.json").read_text()).items()
    assert 0 <= results["segm"]["AP"] <= 100
    split = read_data(any_format)[-1]
    words = ["--model", trained, "--save", "jsonl", "--score", "0", "--output", "found", *device]
    assert main(["predict", split.image_root, *words]) == 0
    rows = [json.loads(line) for line in Path("found/objects.jsonl").read_text().splitlines()]
    assert {Path(row["file"]).name for row in rows} == set(expected["val"])
    assert {row["class"] for row in rows} <= set(CLASSES)
    assert np.isfinite([row["score"] for row in rows]).all()
