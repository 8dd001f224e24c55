"""What `queryinst train` and `eval` write beside data, and what they leave alone."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import defaults

from queryinst.own_data.sources import read_data
from queryinst_cli import main

pytestmark = pytest.mark.usefixtures("untouched_logging")

CLASSES = ["bolt", "nut", "washer"]
QUICK = ("--device", "cpu", "--iterations", "1", "--opts", "DATALOADER.NUM_WORKERS", "0")
QUICK += ("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MIN_SIZE_TEST", "32", "SOLVER.IMS_PER_BATCH", "1")


@pytest.fixture
def train(model_file, capfd, monkeypatch):
    """Runs `queryinst train` for an iteration: (status, stdout, stderr)."""
    monkeypatch.setattr(defaults, "collect_env_info", lambda: "not looked at")  # takes a second

    def run(*words, model=model_file):
        known = set(DatasetCatalog)
        status = main(["train", *map(str, words), "--model", str(model), *QUICK])
        for name in set(DatasetCatalog) - known:  # the next run is another process's
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
        return status, *capfd.readouterr()

    return run


def files_of(folder):
    paths = (x for x in Path(folder).rglob("*") if x.is_file() and not x.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "name", ["train.json", "annotations/val.json", "pictures/001-mine.png", "recipe.json"]
)
def test_train_replaces_no_file_of_ones_own(train, write_as, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    status, out, err = train(write_as("yolo"), "--output", tmp_path / "out")
    assert (status, out) == (1, "") and err.count("\n") == 1
    first = name.partition("/")[0]
    assert f"{tmp_path / 'out'} is not empty: {first} is there" in err
    assert "name another --output" in err and path.read_text() == "mine"


def test_train_does_not_replace_the_model_it_starts_from(train, write_as, model_file, tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model_best.pth"
    shutil.copyfile(model_file, path)
    status, _, err = train(write_as("coco"), "--output", tmp_path / "out", model=path)
    assert status == 1 and "is not empty: model_best.pth is there" in err
    assert path.read_bytes() == Path(model_file).read_bytes()


def test_train_can_be_tried_again_after_data_with_errors(train, write_as, tmp_path):
    data = write_as("yolo")
    labels = sorted((data / "labels" / "val").iterdir())
    texts = [path.read_text() for path in labels]
    words = [data, "--output", tmp_path / "out"]
    for path in labels:
        path.write_text("")
    for _ in range(2):
        status, _, err = train(*words)
        assert status == 1 and "has no objects, so nothing could be measured" in err
        assert files_of(tmp_path / "out") == {}
    for path, text in zip(labels, texts):
        path.write_text(text)
    # As after a kill, which nothing removes.
    (tmp_path / "out" / "recipe.json").write_text('{"version": 1}')
    (tmp_path / "out" / "train.json").write_text("of an earlier start")
    status, _, err = train(*words, "--resume")
    assert status == 0, err
    assert (tmp_path / "out" / "annotations" / "train.json").exists()
    assert not (tmp_path / "out" / "train.json").exists()


def test_train_resumes_where_the_data_are_called_otherwise(train, write_as, tmp_path, monkeypatch):
    data = write_as("yolo")
    words = ["--output", tmp_path / "out"]
    assert train(data, *words)[0] == 0
    monkeypatch.chdir(tmp_path)
    for name in ("data/", "data/data.yaml", "../" + str(tmp_path.name) + "/data"):
        status, out, err = train(name, *words, "--resume")
        assert status == 0 and "going on with" in out, err


def test_output_below_the_data_is_no_data(train, write_as, tmp_path, monkeypatch, capfd):
    data = write_as("labelme")
    monkeypatch.chdir(data)
    assert train(".", "--output", "out")[0] == 0
    status, _, err = train(".", "--output", "out", "--resume")
    assert status == 0, err
    assert main(["data", "check", ".", "--no-progress"]) == 0
    weights = str(tmp_path / "model.pth")
    shutil.copyfile("out/model_final.pth", weights)
    words = ["--model", weights, "--output", str(tmp_path / "eval"), "--device", "cpu"]
    assert main(["eval", ".", *words]) == 0


def test_train_reads_nothing_that_it_may_replace(train, write_as, tmp_path):
    data = write_as("coco")
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.json").write_text('{"version": 1}')  # a start that came to nothing
    shutil.copyfile(next((data / "annotations").glob("*train*")), out / "train.json")
    status, _, err = train(f"{out / 'train.json'}:{data / 'train'}", "--output", out)
    assert status == 1 and f"is in {out}, where this training writes" in err
    assert (out / "train.json").exists()


def test_eval_does_not_replace_files_of_a_training(train, write_as, tmp_path, capfd):
    data = write_as("coco")
    assert train(data, "--output", tmp_path / "out")[0] == 0
    before = files_of(tmp_path / "out")
    words = ["--model", str(tmp_path / "out" / "model_final.pth"), "--output"]
    assert main(["eval", str(data), *words, str(tmp_path / "out")]) == 1
    assert "holds a training, whose config.yaml" in capfd.readouterr().err
    assert files_of(tmp_path / "out") == before


def test_label_files_take_the_classes_of_the_data_and_of_the_model(
    train, write_as, model_file, tmp_path, capfd
):
    data, few = write_as("labelme"), write_as("labelme", "few")
    for path in few.rglob("*.json"):  # without a class
        content = json.loads(path.read_text())
        content["shapes"] = [x for x in content["shapes"] if x["label"] != "bolt"]
        path.write_text(json.dumps(content))
    val = few / "val" if (few / "val").is_dir() else few
    status, out, err = train(data, "--val", val, "--output", tmp_path / "out", "--dry-run")
    assert status == 0, err
    assert "3 categories: bolt, nut, washer" in out
    words = ["--model", model_file, "--output", str(tmp_path / "eval"), "--device", "cpu"]
    assert main(["eval", str(val), *words]) == 0, capfd.readouterr().err
    (found,) = (tmp_path / "eval" / "inference").rglob("annotations/*.json")
    assert [x["name"] for x in json.loads(found.read_text())["categories"]] == CLASSES


def test_label_files_keep_their_classes_if_others_are_known(write_as):
    for known, expected in ((["screw"], CLASSES), (["washer", "screw", *CLASSES[:2]], None)):
        splits = read_data(str(write_as("labelme", f"of-{len(known)}")), classes=lambda: known)
        content = json.loads(Path(splits[0].json_file).read_text())
        assert [x["name"] for x in content["categories"]] == (expected or known)
