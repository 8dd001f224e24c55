import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from queryinst.data.findings import Findings
from queryinst.own_data.sources import read_data

SQUARE = "0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"


@pytest.fixture
def yolo(tmp_path, monkeypatch):
    """Writes files below "d" of the working directory: images of 20 x 10, texts, data.yaml."""
    monkeypatch.chdir(tmp_path)

    def write(files, **about):
        for name, text in files.items():
            path = tmp_path / "d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".png"):
                Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path)
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        if about:
            (tmp_path / "d" / "data.yaml").write_text(yaml.safe_dump(about))

    return write


def names_of(splits, read_objects):
    return {
        split.name: {
            name: [x for x, _ in found] for name, found in read_objects(split.json_file).items()
        }
        for split in splits
    }


@pytest.mark.parametrize(
    "images, labels, about",
    [
        ("images/train", "labels/train", {"train": "images/train"}),
        ("images/train", "labels/train", {"train": "images/train", "path": "."}),
        ("images/train", "labels/train", {"train": "images/train", "path": "../d"}),
        ("images/train", "labels/train", {"train": "images/train", "path": "d"}),
        ("images/train", "labels/train", {"train": ["images/train"], "val": ""}),
        ("images", "labels", {"train": "images"}),
        ("train/images", "train/labels", {"train": "../train/images"}),  # Roboflow's
        ("images/train", "labels/train", {"train": "images\\train", "path": "C:\\d"}),
        ("photos", "photos", {"train": "photos"}),
        ("images/more/images", "images/more/labels", {"train": "images"}),
    ],
)
def test_read_data_finds_what_a_data_yaml_names(yolo, read_objects, images, labels, about):
    files = {f"{images}/a.png": "", f"{images}/b.png": "", f"{labels}/a.txt": f"1 {SQUARE}"}
    yolo(files, names=["cat", "dog"], **about)
    splits = read_data("d")
    found = names_of(splits, read_objects)
    assert list(found) == ["train"] and sorted(found["train"].values()) == [[], ["dog"]]
    for name in found["train"]:
        assert os.path.isfile(os.path.join(splits[0].image_root, name))


def test_read_data_reads_lists_of_images(yolo, read_objects):
    files = {f"images/{name}.png": "" for name in "abc"} | {"labels/b.txt": f"0 {SQUARE}\n"}
    files |= {"train.txt": "./images/a.png\nimages/b.png\n", "val.txt": "images/c.png"}
    yolo(files, names={0: "cat"}, train="train.txt", val="val.txt")
    found = names_of(read_data("d/data.yaml"), read_objects)
    assert found == {"train": {"a.png": [], "b.png": ["cat"]}, "val": {"c.png": []}}


def test_read_data_takes_labels_of_images_that_lists_leave_out(yolo, read_objects):
    files = {f"images/{name}.png": "" for name in "abc"}
    files |= {f"labels/{name}.txt": f"0 {SQUARE}\n" for name in "abcd"}
    files |= {"train.txt": "./images/a.png", "val.txt": "./images/b.png"}
    yolo(files, names=["cat"], train="train.txt", val="val.txt")
    findings = Findings()
    found = names_of(read_data("d", findings=findings), read_objects)
    assert found == {"train": {"a.png": ["cat"]}, "val": {"b.png": ["cat"]}}
    (group,) = findings.groups()
    assert [x.line for x in group.examples] == ["d/labels/d.txt: no image has this name"]


def test_read_data_takes_no_list_beside_the_images_for_labels(yolo, read_objects):
    files = {"a.png": "", "a.txt": f"0 {SQUARE}", "train.txt": "a.png", "odd.txt": b"\xff"}
    yolo(files, names=["cat"], train="train.txt")
    findings = Findings()
    found = names_of(read_data("d", findings=findings), read_objects)
    assert found == {"train": {"a.png": ["cat"]}}
    (group,) = findings.groups()
    assert [x.line for x in group.examples] == ["d/odd.txt: no image has this name"]


def test_read_data_passes_over_hidden_files(yolo, read_objects):
    files = {"images/a.png": "", "labels/a.txt": f"0 {SQUARE}", "labels/._a.txt": b"\x00\x05\xff"}
    yolo(files, names=["cat"], train="images")
    Path("d/images/._a.png").write_bytes(b"\x00\x05\xff")
    assert names_of(read_data("d"), read_objects) == {"train": {"a.png": ["cat"]}}


def test_read_data_reads_lists_that_windows_wrote(yolo, read_objects):
    yolo({"a/b.png": "", "train.txt": ".\\a\\b.png\r\n"}, names=["cat"], train="train.txt")
    assert names_of(read_data("d"), read_objects) == {"train": {"b.png": []}}


def test_read_data_warns_of_a_test_part_that_is_not_there(yolo, read_objects, caplog):
    yolo({"train/images/a.png": ""}, names=["cat"], train="../train/images", test="../test/images")
    assert names_of(read_data("d"), read_objects) == {"train": {"a.png": []}}
    assert "d/data.yaml: test names ../test/images" in caplog.text


def test_read_data_warns_of_images_that_share_their_labels(yolo, caplog):
    yolo({"a.png": "", "a.txt": f"0 {SQUARE}"}, names=["cat"], train=".")
    Image.new("RGB", (20, 10)).save("d/a.jpg")
    read_data("d")
    assert "d/a.txt is of d/a.jpg, and of d/a.png" in caplog.text


def test_read_data_turns_images_by_their_exif_orientation(yolo, read_objects, tmp_path):
    yolo({"a.txt": "0 0 0 1 0 1 0.25 0 0.25"}, names=["cat"], train=".")
    exif = Image.Exif()
    exif[274] = 6  # a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "d" / "a.jpg", exif=exif)
    (split,) = read_data("d")
    ((_, mask),) = read_objects(split.json_file)["a.jpg"]
    mask = np.frombuffer(mask, bool).reshape(20, 10)
    assert mask[:5].all() and not mask[5:].any()


def test_read_data_reads_names_without_a_data_yaml(yolo, read_objects):
    yolo({"images/a.png": "", "labels/a.txt": f"1 {SQUARE}", "classes.txt": "cat\ndog\n"})
    assert names_of(read_data("d"), read_objects) == {"d": {"a.png": ["dog"]}}


def test_read_data_takes_digits_in_quotes_as_numbers(yolo, read_objects):
    yolo({"a.png": "", "a.txt": f"1 {SQUARE}"}, names={"1": "dog", "0": "cat"}, train=".")
    assert names_of(read_data("d"), read_objects) == {"train": {"a.png": ["dog"]}}


def test_read_data_takes_numbers_in_yaml_as_names(yolo, read_objects):
    yolo({"a.png": "", "a.txt": f"0 {SQUARE}"}, names=[7, 8], train=".")
    assert names_of(read_data("d"), read_objects) == {"train": {"a.png": ["7"]}}


@pytest.mark.parametrize(
    "line, text",
    [
        ("0 0.1 0.1 0.5 0.1 nan 0.5", "line 2 has the coordinate nan, which must be from 0 to 1"),
        ("0 0.1 0.1 0.5 0.1 inf 0.5", "line 2 has the coordinate inf"),
        ("0 0.1 0.1 0.5 0.1 1.5 0.5", "line 2 has the coordinate 1.5"),
        ("0 0.1 0.1 0.5 0.1 -0.2 0.5", "line 2 has the coordinate -0.2"),
        ("0 10 10 50 10 50 50", "line 2 has the coordinate 10"),
        ("0 0.1 0.1 0.5 0.1 0.5", "line 2 has 5 numbers behind the class"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "line 2 has 7 numbers behind the class"),
        ("0", "line 2 has 0 numbers behind the class"),
        ("0 0.5 0.5 0.2 0.2", "line 2 is a box (4 numbers), not a polygon"),
        (f"2 {SQUARE}", "line 2 has the class 2, of which there is no name (0 to 1)"),
        (f"-1 {SQUARE}", "line 2 has the class -1"),
        (f"0.5 {SQUARE}", "line 2 has the class 0.5"),
        (f"nan {SQUARE}", "line 2 has the class nan"),
        (f"cat {SQUARE}", "line 2 has 'cat', which is no number"),
        ("0 0,1 0,1 0,5 0,1 0,5 0,5", "line 2 has '0,1', which is no number"),
    ],
)
def test_read_data_names_a_wrong_line(yolo, read_objects, line, text):
    lines = f"0 {SQUARE}\n{line}\n1 {SQUARE}\n"
    yolo({"images/a.png": "", "labels/a.txt": lines}, names=["cat", "dog"], train="images")
    with pytest.raises(ValueError) as error:
        read_data("d")
    message = str(error.value)
    assert message.startswith(f"d/labels/a.txt: {text}") and "\n" not in message
    findings = Findings()
    found = names_of(read_data("d", findings=findings), read_objects)
    assert found == {"train": {"a.png": ["cat", "dog"]}} and findings.count("error") == 1


def test_read_data_counts_empty_lines_as_well(yolo):
    yolo({"a.png": "", "a.txt": f"\n\n0 {SQUARE}\n\n0 1\n"}, names=["cat"], train=".")
    with pytest.raises(ValueError, match="d/a.txt: line 5 has 1 numbers"):
        read_data("d")


def test_read_data_takes_coordinates_that_were_rounded_over_the_edge(yolo, read_objects):
    yolo({"a.png": "", "a.txt": "0 0 0 1.00005 0 1 1 -0.00003 1"}, names=["cat"], train=".")
    (split,) = read_data("d")
    ((name, mask),) = read_objects(split.json_file)["a.png"]
    assert np.frombuffer(mask, bool).all()


@pytest.mark.parametrize(
    "files, about, text",
    [
        ({}, {"names": ["a"], "train": "no"}, "d/data.yaml: train names no, but there is no"),
        ({}, {"names": ["a"], "train": 3}, "d/data.yaml: train is 3, which must be a folder"),
        ({}, {"names": ["a"]}, "d/data.yaml has neither train nor val"),
        ({}, {"names": [], "train": "."}, r"d/data.yaml: names is \[\], which must be a list"),
        ({}, {"train": "."}, "d/data.yaml: names is None"),
        ({}, {"names": ["a", True], "train": "."}, "class 1 is True, .*; put it in quotes"),
        ({}, {"names": ["a", "a"], "train": "."}, "two classes have the name 'a'"),
        ({}, {"names": {"x": "a"}, "train": "."}, r"the keys of names are \['x'\]"),
        ({}, {"names": {0: "a", "0": "b"}, "train": "."}, r"the keys of names are \[0, '0'\]"),
        ({}, {"names": ["a"], "nc": 2, "train": "."}, "nc is 2, but names has 1 names"),
        ({}, {"names": ["a"], "kpt_shape": [1, 2], "train": "."}, "keypoints"),
        ({"a.png": "", "a.txt": b"\xff\xfe"}, {"names": ["a"], "train": "."}, "not a text file"),
        ({"x.txt": ""}, {"names": ["a"], "train": "."}, "d has no images"),
        ({"data.yaml": "train: [\n"}, {}, "d/data.yaml, line 2, is not valid yaml"),
        (
            {"a.png": "", "a.txt": "", "b.txt": ""},
            {"names": ["a"], "train": "."},
            "d/b.txt: no image",
        ),
        ({"l.txt": "gone.png"}, {"names": ["a"], "train": "l.txt"}, "gone.png does not exist"),
    ],
)
def test_read_data_says_in_one_line_what_is_wrong(yolo, files, about, text):
    yolo({"there.md": "", **files}, **about)
    with pytest.raises((ValueError, OSError), match=text) as error:
        read_data("d")
    assert "\n" not in str(error.value)
