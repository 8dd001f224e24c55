import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from queryinst.own_data.sources import Split
from queryinst.recipe.holding_out import held_out_before, hold_out, write_held


@pytest.fixture
def source(tmp_path):
    """A function that writes images, some of them equal, with an object each."""

    def write(pictures):
        folder = tmp_path / "images"
        folder.mkdir()
        for number, seed in enumerate(pictures):
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        images = [
            {"id": f"i{n}", "file_name": f"{n}.png", "height": 8, "width": 9}
            for n in range(len(pictures))
        ]
        annotations = [
            {"id": n, "image_id": f"i{n}", "category_id": 5, "bbox": [1, 1, 2, 2], "iscrowd": 0}
            for n in range(len(pictures))
        ]
        categories = [{"id": 5, "name": "a"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = tmp_path / "all.json"
        path.write_text(json.dumps(content))
        return content, Split("all", str(path), str(folder))

    return write


def names(content):
    return {x["file_name"] for x in content["images"]}


def test_hold_out_divides_images_and_their_objects(source, tmp_path):
    content, split = source([0, 1, 2, 3, 3, 3, 4, 5, 6, 7])
    (tmp_path / "out").mkdir()
    held = hold_out(content, split, str(tmp_path / "out"))
    write_held(held)
    train, val = held.train, held.val
    assert names(train) | names(val) == names(content) and not names(train) & names(val)
    assert 1 <= len(names(val)) <= 4
    equal = {"3.png", "4.png", "5.png"}
    assert equal <= names(train) or equal <= names(val)
    for part in (train, val):
        ids = {x["id"] for x in part["images"]}
        assert part["annotations"] == [x for x in content["annotations"] if x["image_id"] in ids]
        assert part["categories"] == content["categories"]
    for part, where in ((train, held.train_split), (val, held.val_split)):
        assert json.loads(Path(where.json_file).read_text()) == part
        assert where.image_root == split.image_root
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["train.json", "val.json"]  # nothing is copied
    (note,) = held.notes
    assert note.startswith(f"held out: {len(names(val))} of 10 images")
    assert all(name in note for name in names(val))


def test_hold_out_is_the_same_each_time_and_found_again(source, tmp_path):
    content, split = source(range(10))
    (tmp_path / "out").mkdir()
    first = hold_out(content, split, str(tmp_path / "out"))
    write_held(first)
    again = hold_out(content, split, str(tmp_path / "other"))
    assert names(first.val) == names(again.val)
    assert held_out_before(split, str(tmp_path / "out")) == (first.train_split, first.val_split)
    shutil.rmtree(tmp_path / "out")
    assert held_out_before(split, str(tmp_path / "out")) == (split, split)


@pytest.mark.parametrize("pictures, said", [([0], "1 image"), ([5, 5, 5], "3 images")])
def test_hold_out_gives_the_whole_twice_where_nothing_can_be_held_out(
    source, tmp_path, pictures, said
):
    content, split = source(pictures)  # three that are equal
    held = hold_out(content, split, str(tmp_path))
    write_held(held)
    assert held.train is held.val is content and not (tmp_path / "val.json").exists()
    assert held.train_split.json_file == held.val_split.json_file == split.json_file
    assert f"none of the {said} can be held out" in held.notes[0]
