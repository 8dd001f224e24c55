import json
import os
from pathlib import Path

import pytest

from queryinst.data.coco_folder import find_coco, find_image_ids, has_coco, split_name


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes JSON files and empty images into the working directory."""
    monkeypatch.chdir(tmp_path)

    def run(*names, images=("a.jpg",)):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            records = [{"id": number, "file_name": x} for number, x in enumerate(images, start=4)]
            path.write_text(json.dumps({"images": records}) if name.endswith("json") else "")

    return run


@pytest.mark.parametrize(
    "names, expected",
    [
        (["d/val.json", "d/images/a.jpg"], ["val d/val.json d/images"]),
        (["d/labels.json", "d/a.jpg"], ["d d/labels.json d"]),
        (["d/annotations/any.json", "d/any/a.jpg"], ["d d/annotations/any.json d/any"]),
        (
            ["d/annotations/train.json", "d/annotations/val.json", "d/val/a.jpg", "d/train/a.jpg"],
            ["train d/annotations/train.json d/train", "val d/annotations/val.json d/val"],
        ),
        (  # COCO's own
            [
                *("d/annotations/instances_val2017.json", "d/annotations/instances_train2017.json"),
                *("d/annotations/captions_val2017.json", "d/train2017/a.jpg", "d/val2017/a.jpg"),
                "d/annotations/person_keypoints_val2017.json",
            ],
            [
                "train d/annotations/instances_train2017.json d/train2017",
                "val d/annotations/instances_val2017.json d/val2017",
            ],
        ),
        (  # Roboflow's
            [
                *("d/train/_annotations.coco.json", "d/valid/_annotations.coco.json"),
                *(
                    "d/train/a.jpg",
                    "d/valid/a.jpg",
                    "d/test/_annotations.coco.json",
                    "d/test/a.jpg",
                ),
            ],
            [
                "train d/train/_annotations.coco.json d/train",
                "val d/valid/_annotations.coco.json d/valid",
                "test d/test/_annotations.coco.json d/test",
            ],
        ),
        (["d/x.json", "d/photos/a.jpg"], ["d d/x.json d/photos"]),
        (["d/train/labels.json", "d/train/data/a.jpg"], ["train d/train/labels.json d/train/data"]),
        (
            ["d/val.json", "d/images/val/a.jpg", "d/images/train/a.jpg"],
            ["val d/val.json d/images/val"],
        ),
    ],
)
def test_find_coco_knows_the_usual_layouts(write, names, expected):
    write(*names)
    assert has_coco("d") and [" ".join(found) for found in find_coco("d")] == expected


def test_find_coco_takes_a_file_and_both(write):
    write("d/annotations/x.json", "d/x/a.jpg", "odd:dir/a.jpg")
    assert find_coco("d/annotations/x.json") == [("x", "d/annotations/x.json", "d/x")]
    assert find_coco("d/annotations/x.json:d/x") == [("x", "d/annotations/x.json", "d/x")]


def test_find_coco_looks_for_more_than_the_first_image(write):
    write("d/x.json", images=["gone.jpg", "b.jpg", "c.jpg"])
    write("d/one/b.jpg", "d/two/b.jpg", "d/two/c.jpg")
    assert find_coco("d") == [("d", "d/x.json", "d/two")]


def test_find_coco_finds_images_whose_names_windows_wrote(write):
    write("d/annotations/x.json", images=["images\\a.jpg"])
    write("d/other/b.jpg", "d/images/a.jpg")
    assert find_coco("d") == [("d", "d/annotations/x.json", "d")]


def test_find_coco_takes_plain_names_where_there_are_more(write):
    names = ["train", "val", "train_50", "all"]
    write("d/a.jpg", *(f"d/annotations/{name}.json" for name in names))
    assert [found[:2] for found in find_coco("d")] == [
        ("train", "d/annotations/train.json"),
        ("val", "d/annotations/val.json"),
    ]


@pytest.mark.parametrize(
    "name, text, is_coco",
    [
        ("made.json", '{"seed": 0}', False),
        ("results.json", '[{"image_id": 1}]', False),
        ("stats.json", '{"images": [1, 2], "annotations": 3}', False),
        ("notes.json", '{"categories": [{"id": 0, "name": "a"}], "info": {}}', False),
        ("long.json", '{"categories": [], "info": "' + "x" * 70_000 + '", "images": [{}]}', True),
        ("images.json", '{"images": [ ], "categories": []}', True),
        ("annotations/train1.json", '{"flags": {}, "shapes": [], "imagePath": "a.jpg"}', False),
        ("annotations/train1.json", '{"shapes": [], "images": []}', True),
    ],
)
def test_has_coco_passes_over_other_json(write, name, text, is_coco):
    write(f"d/{name}", "d/a.jpg")
    Path("d", name).write_text(text)
    assert has_coco("d") == is_coco
    if not is_coco:
        write("d/x.json")
        assert find_coco("d") == [("d", "d/x.json", "d")]


def test_find_coco_passes_over_what_a_training_wrote(write):
    write("d/labels/instances.json", "d/images/a.jpg", "d/run/train.json", "d/run/val.json")
    Path("d/recipe.json").write_text('{"oven": 200}')  # another's
    Path("d/run/recipe.json").write_text('{"version": 1}')
    assert find_coco("d") == [("d", "d/labels/instances.json", "d/images")]
    assert find_coco("d/run/val.json:d/images")[0][0] == "val"  # unless it is named


@pytest.mark.parametrize(
    "names, data, text",
    [
        ([], "d", "d is neither a folder nor JSON:IMAGE_FOLDER"),
        (["d/x.json"], "d", "the first image of d/x.json, a.jpg, is in none"),
        (["d/x.json", "d/y.json", "d/a.jpg"], "d", "d has d/x.json, d/y.json; name one"),
        (["d/val.json", "d/valid.json", "d/a.jpg"], "d", "name one as JSON:IMAGE_FOLDER"),
        ([], "x.json:d", "there is no file x.json"),
        (["d/x.json"], "d/x.json:e", "there is no folder e"),
    ],
)
def test_find_coco_says_what_is_not_clear(write, names, data, text):
    write(*names)
    with pytest.raises((FileNotFoundError, ValueError), match=text):
        find_coco(data)


@pytest.mark.parametrize(
    "name, split",
    [
        ("instances_val2017", "val"),
        ("valid", "val"),
        ("my-train set", "train"),
        ("training", "train"),
        ("minival2014", ""),
        ("train_val", ""),
        ("validity", ""),
    ],
)
def test_split_name(name, split):
    assert split_name(name) == split


def test_find_image_ids_takes_the_file_that_has_all(write):
    write("d/annotations/train.json", images=["b.jpg", "c.jpg"])
    write("d/annotations/val.json", "d/val/a.jpg", "d/val/b.jpg", images=["b.jpg", "sub/a.jpg"])
    path, found = find_image_ids(["d/val/a.jpg", "d/val/b.jpg"])
    assert os.path.relpath(path) == "d/annotations/val.json"
    assert found == [(5, "sub/a.jpg"), (4, "b.jpg")]
    assert find_image_ids(["d/val/a.jpg", "d/val/none.jpg"]) == ("", [])
    assert find_image_ids([]) == ("", [])


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"images": 3}', '{"images": [{"id": [1]}]}'])
def test_find_image_ids_passes_over_other_files(write, text):
    write("d/a.jpg", "d/x.json")
    Path("d/x.json").write_text(text)
    assert find_image_ids(["d/a.jpg"]) == ("", [])


def test_find_image_ids_wants_one_image_of_a_name(write):
    write("d/x.json", "d/a.jpg", images=["one/a.jpg", "two/a.jpg"])
    assert find_image_ids(["d/a.jpg"]) == ("", [])


@pytest.mark.parametrize("text", ["", "[]", '{"images": ['])
@pytest.mark.parametrize("name", ["valid/_annotations.coco.json", "annotations/instances_val.json"])
def test_find_coco_does_not_pass_over_a_damaged_part(write, name, text):
    write("d/train/_annotations.coco.json", "d/train/a.jpg", f"d/{name}")
    Path("d", name).write_text(text)
    with pytest.raises(ValueError, match=f"d/{name} (is not valid JSON|has no list 'images')"):
        find_coco("d")
