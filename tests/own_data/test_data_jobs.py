"""`queryinst data`, from the command line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from queryinst.own_data.sources import read_data
from queryinst_cli import main


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Runs `queryinst data` in the test's folder: (status, lines of out, lines of err)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = main(["data", *words])
        out, err = capfd.readouterr()
        return status, out.splitlines(), err.splitlines()

    return call


def table(lines):
    """The printed counts by row and column."""
    (*columns,) = lines[0].split()
    rows = [line.split() for line in lines[1:] if not line.startswith("wrote")]
    return {row[0]: dict(zip(columns, map(int, row[1:]))) for row in rows}


def test_convert_writes_and_counts(write_as, run, truth, expected, read_objects):
    write_as("labelme")
    status, out, err = run("convert", "data", "made/yolo", "--to", "yolo")
    assert status == 0 and out[-1] == "wrote made/yolo" and err == []
    counts = table(out)
    for part, images in truth.items():
        names = [thing.name for things in images.values() for thing in things]
        assert counts["images"][part] == len(images) and counts["objects"][part] == len(names)
        for name in set(names):
            assert counts[name][part] == names.count(name)
    for split in read_data("made/yolo"):
        assert read_objects(split.json_file) == expected[split.name]
    status, out, err = run("convert", "data", "made/yolo", "--to", "coco")
    assert status == 1 and out == []
    assert err == [
        "queryinst data convert: error: made/yolo is there already; add --overwrite, or name"
        " another folder"
    ]
    assert run("convert", "data", "made/yolo", "--to", "coco", "--overwrite", "--link")[0] == 0
    assert os.listdir("made") == ["yolo"] and Path("made/yolo/train/photo 0.png").is_symlink()


def test_convert_warns_of_holes(run, tmp_path):
    numbers = np.zeros((20, 20), np.uint8)
    numbers[2:10, 2:10], numbers[5, 5] = 1, 0
    for name, array in (("images", numbers), ("masks", numbers)):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "d" / name / "a.png")
    status, _, err = run("convert", "d", "out", "--to", "yolo")
    text = "objects have lost their holes, which YOLO's polygons cannot have: 1"
    assert status == 0 and err == [f"queryinst data convert: warning: {text}"]


def test_split_holds_out_what_is_asked_for(run, write_as, truth, read_objects):
    write_as("yolo")
    words = ("--val", "0.25", "--test", "0.25", "--seed", "5")
    status, out, err = run("split", "data", "one", *words)
    assert status == 0 and err == []
    assert table(out)["images"] == {"train": 4, "val": 2, "test": 2}
    assert run("split", "data", "two", *words)[0] == 0
    found = {}
    for first, second in zip(read_data("one"), read_data("two"), strict=True):
        assert read_objects(first.json_file) == read_objects(second.json_file)
        found |= read_objects(first.json_file)
    images = truth["train"] | truth["val"]
    assert found == {
        name: sorted((thing.name, thing.mask.tobytes()) for thing in things)
        for name, things in images.items()
    }


@pytest.mark.parametrize("part", ["train", "birds"])
def test_overwrite_replaces_what_was_written_here_alone(run, write_as, truth, part):
    write_as("coco", truth={part: truth["train"]})
    words = ("convert", "data", "out", "--to", "coco")
    assert run(*words)[0] == 0 and run(*words, "--overwrite")[0] == 0
    Path("photos/images").mkdir(parents=True)
    Path("photos/images/mine.png").touch()
    status, _, err = run("convert", "data", "photos", "--to", "coco", "--overwrite")
    assert status == 1 and "photos was not written by queryinst data" in err[0]
    assert Path("photos/images/mine.png").exists()


def test_a_test_part_may_have_no_annotations_unless_it_is_split(run, write_as, truth):
    folder = write_as("coco", truth={"train": truth["train"], "test": truth["val"]})
    path = folder / "annotations" / "instances_test.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    for words in (["--to", "coco"], ["--to", "yolo", "--overwrite"]):
        status, out, err = run("convert", "data", "out", *words)
        assert status == 0 and err == []
        assert table(out)["images"]["test"] == 2 and table(out)["objects"]["test"] == 0
    status, out, err = run("split", "data", "new")
    assert status == 1 and "instances_test.json has no list 'annotations'" in err[0]


def test_merge_keeps_all_images(run, write_as, expected, read_objects):
    write_as("coco", "first")
    write_as("label images", "second")
    status, out, err = run("merge", "first", "second", "both")
    assert status == 0 and err == [] and table(out)["images"] == {"train": 12, "val": 4}
    for split in read_data("both"):
        found = read_objects(split.json_file)
        for name, objects in expected[split.name].items():
            assert found[name] == found[name.replace(".png", "-2.png")] == objects
        content = json.loads(Path(split.json_file).read_text())
        for key in ("images", "annotations"):
            assert [x["id"] for x in content[key]] == list(range(1, len(content[key]) + 1))


def test_show_draws_into_a_folder_a_part(run, write_as):
    write_as("label images with a table")
    opts = ("--opts", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.CROP.ENABLED", "False")
    status, out, err = run("show", "data", "--num-images", "3", "--augmented", *opts)
    assert status == 0 and err == []
    assert out == ["train: 3 of 6 images", "val: 2 of 2 images", "wrote output/show"]
    pictures = sorted(Path("output/show").rglob("*.png"))
    assert [len(list(Path("output/show", part).iterdir())) for part in ("train", "val")] == [3, 2]
    assert all(Image.open(path).size == (2 * 96 * 4 + 8, 64 * 4) for path in pictures)
    assert run("show", "data")[0] == 1
    assert run("show", "data", "--num-images", "1", "--overwrite")[0] == 0
    assert len(list(Path("output/show").rglob("*.png"))) == 2


@pytest.mark.parametrize(
    "words, text",
    [
        ("convert none out --to yolo", "none is neither a folder nor JSON:IMAGE_FOLDER"),
        ("convert empty out --to yolo", "no annotations are recognised in empty"),
        ("convert data data --to coco --overwrite", "data would replace"),
        ("convert data data/train/photo 0.png --to coco", "is a file"),
        ("split data out --val 0", "--val 0 and --test 0 leave 100% of the images to train on"),
        ("split data out --val 0.5 --test 0.5", "leave 0% of the images to train on"),
        ("split data out --val 0.7 --test 0.3", "leave 0% of the images to train on"),
        ("merge data out", "one data set alone needs no merging"),
        ("show data --config-file none.yaml", "none.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(run, write_as, tmp_path, words, text):
    write_as("coco")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    words = words.replace("photo 0.png", "photo\0000.png").split()
    status, out, err = run(*(word.replace("\0000", " 0") for word in words))
    assert status == 1 and out == [] and len(err) == 1 and text in err[0]
    assert err[0].startswith(f"queryinst data {words[0]}: error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_two_formats_in_one_folder_are_an_error(run, write_as, truth, tmp_path):
    folder = write_as("yolo")
    (folder / "train").mkdir()
    (folder / "train" / "x.json").write_text('{"shapes": [], "imagePath": "x.png"}')
    status, _, err = run("convert", "data", "out", "--to", "coco")
    assert status == 1 and "data has YOLO's data.yaml and LabelMe's JSON files; name" in err[0]
    assert run("convert", "data/data.yaml", "out", "--to", "coco")[0] == 0


def test_check_takes_every_format(any_format, run):
    status, out, err = run("check", any_format, "--workers", "1", "--no-progress")
    assert status == 0 and err == [], out
