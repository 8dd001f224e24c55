"""One run of the comparison, from its description to its record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dev.learning.compare import command_of
from dev.learning.data_sets import DataSet
from dev.learning.runs import Run, with_output
from dev.learning.train import train
from queryinst.data.shapes import make_shapes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("learning")
    make_shapes(root, num_train=4, num_val=2)
    jsons = [root / "shapes" / "annotations" / f"{split}.json" for split in ("train", "val")]
    images = [root / "shapes" / split for split in ("train", "val")]
    options = ("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64)
    return DataSet(
        "shapes", jsons[0], images[0], jsons[1], images[1], ("ellipse", "triangle", "star"), options
    )


def test_train_writes_a_record_once(data, tmp_path, untouched_logging):
    run = Run("queryinst", data, 2, 0.001, 1, "", batch=2, evaluations=1, label="grid")
    run = with_output(replace(run, opts=("DATALOADER.NUM_WORKERS", 0)), tmp_path)
    record = train(run, tmp_path)
    assert (record["label"], record["steps"], record["lr"], record["seed"]) == ("grid", 2, 0.001, 1)
    (point,) = record["curve"]
    assert point["step"] == 2 and point["seconds"] > 0 and record["seconds_per_step"] > 0
    assert record["nms"].keys() == record["raw"].keys() == {"box_ap", "mask_ap"}
    assert Path(run.output, "model_final.pth").exists()
    path = Path(run.output, "record.json")
    assert path.read_text() == json.dumps(record)  # AP is NaN where nothing is predicted
    path.write_text(json.dumps(record | {"seed": 99}))
    assert train(run, tmp_path)["seed"] == 99  # read, not made again
    with pytest.raises(ValueError, match="record.json is of another configuration"):
        train(replace(run, opts=(*run.opts, "SOLVER.WEIGHT_DECAY", 0.1)), tmp_path)


def test_command_of_names_all_that_the_run_and_its_folders_are(data, tmp_path):
    class Args:
        datasets, peer = "sets", "peer"

    run = Run("maskrcnn", data, 7, 0.002, 3, str(tmp_path / "run"), batch=2, weights="w/a.pth")
    command = command_of(run, Args)
    flags = dict(zip(command[5::2], command[6::2]))
    assert flags == {
        **{"--model": "maskrcnn", "--data": "shapes", "--steps": "7", "--lr": "0.002"},
        **{"--seed": "3", "--batch": "2", "--evaluations": "4", "--weights": "w/a.pth"},
        **{"--output": str(tmp_path), "--datasets": str(Path("sets").absolute())},
        "--peer": str(Path("peer").absolute()),
    }
