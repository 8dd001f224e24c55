import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from queryinst.data.findings import Findings
from queryinst.own_data.label_images import rles_of
from queryinst.own_data.sources import read_data

HEIGHT, WIDTH = 12, 18


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files below "d": arrays as pictures, a number as one full of it, texts."""
    monkeypatch.chdir(tmp_path)

    def run(**files):
        for name, content in files.items():
            path = tmp_path / "d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            elif isinstance(content, Image.Image):
                content.save(path)
            else:
                shape = (HEIGHT, WIDTH)
                array = np.full(shape, content, np.uint8) if isinstance(content, int) else content
                Image.fromarray(array).save(path)

    return run


@pytest.fixture
def numbers():
    """Objects 1 and 2 touch, 3 has two parts, 4 has a hole in which 5 lies."""
    array = np.zeros((HEIGHT, WIDTH), np.uint8)
    array[1:4, 1:4], array[1:4, 4:8] = 1, 2
    array[1:3, 9:11], array[1:3, 13:15] = 3, 3
    array[5:11, 2:10] = 4
    array[6:9, 4:7] = 0
    array[7, 5] = 5
    return array


def objects(read_objects, **options):
    (split,) = read_data("d", **options)
    return read_objects(split.json_file)


def expected(array, name_of):
    return sorted((name_of(n), (array == n).tobytes()) for n in np.unique(array[array > 0]))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_every_number_is_an_object(write, read_objects, numbers, kind):
    array = numbers.astype(kind) * (1 if kind == np.uint8 else 700)
    suffix = "tif" if kind == np.int32 else "png"
    write(**{"images/a.png": 9, f"masks/a.{suffix}": array})
    found = objects(read_objects)
    assert found == {"a.png": expected(array, lambda n: "object")}


def test_a_palette_holds_numbers(write, read_objects, numbers):
    picture = Image.fromarray(numbers, "P")
    picture.putpalette(list(range(256)) * 3)
    write(**{"images/a.png": 9, "labels/a.png": picture})
    assert objects(read_objects) == {"a.png": expected(numbers, lambda n: "object")}


@pytest.mark.parametrize(
    "name, text",
    [
        ("names.csv", "id,class\n1,cat\n2,dog\n3,cat\n4,dog\n5,cat\n"),
        ("names.csv", "class;id\ncat;1\ndog;2\ncat;3\ndog;4\ncat;5\n"),
        ("names.csv", "1,cat\n2,dog\n3,cat\n4,dog\n5,cat"),
        (
            "masks/names.csv",
            "file,id,class\n"
            + "".join(
                f"a.png,{i},{n}\n" for i, n in enumerate(["cat", "dog", "cat", "dog", "cat"], 1)
            ),
        ),
        (
            "names.json",
            '{"0": "background", "1": "cat", "2": "dog", "3": "cat", "4": "dog", "5": "cat"}',
        ),
        ("names.json", '{"a.png": {"1": "cat", "2": "dog", "3": "cat", "4": "dog", "5": "cat"}}'),
        ("names.txt", "1 cat\n2: dog\n3\tcat\n4, dog\n5=cat\n"),
        ("names.txt", "cat\ndog\ncat\ndog\ncat\n"),
        ("names.txt", "background\ncat\ndog\ncat\ndog\ncat\n"),
    ],
)
def test_a_table_has_the_class_of_each_number(write, read_objects, numbers, name, text):
    write(**{"images/a.png": 9, "masks/a.png": numbers, name: text})
    found = objects(read_objects)
    assert found == {"a.png": expected(numbers, lambda n: "cat" if n % 2 else "dog")}


def test_numbers_may_be_those_of_classes_times_1000(write, read_objects, numbers):
    array = numbers.astype(np.uint16)
    array[numbers > 0] += np.where(numbers[numbers > 0] % 2, 1000, 2000).astype(np.uint16)
    write(**{"images/a.png": 9, "masks/a.png": array, "names.txt": "1 cat\n2 dog\n"})
    found = objects(read_objects)
    assert found == {"a.png": expected(array, lambda n: "cat" if n < 2000 else "dog")}


def test_a_folder_may_be_a_class(write, read_objects, numbers):
    write(**{"images/a.png": 9, "images/b.png": 8})
    write(**{"masks/dog/a.png": numbers, "masks/cat/a.png": numbers, "masks/cat/b.png": 0})
    (split,) = read_data("d")
    found = read_objects(split.json_file)
    both = [expected(numbers, lambda n, name=name: name) for name in ("cat", "dog")]
    assert found == {"a.png": both[0] + both[1], "b.png": []}
    categories = json.loads(open(split.json_file).read())["categories"]
    assert [category["name"] for category in categories] == ["cat", "dog"]


def test_one_part_alone_may_have_folders_of_classes(write, read_objects):
    write(**{f"images/{part}/a.png": 9 for part in ("train", "val")})
    write(**{"masks/train/cat/a.png": 1, "masks/val/a.png": 1})
    found = [read_objects(split.json_file)["a.png"][0][0] for split in read_data("d")]
    assert found == ["cat", "object"]


def test_folders_that_the_images_have_too_are_no_classes(write, read_objects):
    write(**{"images/day/a.png": 9, "masks/day/a.png": 3, "images/b.png": 9, "masks/b.png": 4})
    assert set(objects(read_objects)) == {"day/a.png", "b.png"}


@pytest.mark.parametrize(
    "files, text",
    [
        (
            {"masks/a.png": np.zeros((9, 18), np.uint8)},
            "d/masks/a.png has 18 x 9 pixels, its image",
        ),
        ({"masks/a.png": np.zeros((12, 18, 3), np.uint8)}, "d/masks/a.png has the colours RGB"),
        (
            {"masks/a.png": "no picture"},
            "d/masks/a.png cannot be read: cannot identify",
        ),
        ({"masks/a.png": 1, "masks/b.png": 1}, "d/masks/b.png: no image in d/images has this name"),
        (
            {"masks/a.png": 3, "names.txt": "1 cat\n"},
            "d/masks/a.png has the number 3, which has no",
        ),
        (
            {"masks/a.png": 1, "names.txt": "1 cat\ndog\n"},
            "d/names.txt, line 2: 'dog' is no number",
        ),
        ({"masks/a.png": 1, "names.csv": "id,class\n1\n"}, "d/names.csv, line 2: '1' must be"),
        ({"masks/a.png": 1, "names.csv": "id,size\n1,2\n"}, "the column 'size' is not known"),
        ({"masks/a.png": 1, "names.csv": "1,cat\n1,dog\n"}, "1 has two names, cat and dog"),
        ({"masks/a.png": 1, "names.csv": "0,cat\n"}, "the number 0 has the name 'cat'"),
        ({"masks/a.png": 1, "names.json": "[1]"}, "d/names.json has 1, which is no name"),
        ({"masks/a.png": 1, "names.json": '{"x": "cat"}'}, "'x': 'cat' is no number and name"),
        ({"masks/a.png": 1, "names.txt": ""}, "d/names.txt has no names"),
        (
            {"masks/a.png": 1, "names.txt": "1 a", "names.csv": "1,a"},
            "names.csv and .*names.txt both",
        ),
        ({"masks/cat/a.png": 1, "names.txt": "1 a"}, "a folder of the class cat, and d/names.txt"),
        ({"masks/cat/a.png": 1, "masks/a.png": 1}, "has folders of classes"),
        ({"masks/a.png": 1, "labels/a.png": 1}, "both have label images; keep one"),
        (
            {f"{x}/{y}/a.png": 1 for x in ("images", "masks") for y in ("val", "valid")},
            "d/images/val and d/images/valid are both of the part val",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(write, files, text):
    write(**{"images/a.png": 9, **files})
    with pytest.raises(ValueError, match=text) as error:
        read_data("d")
    assert "\n" not in str(error.value)


def test_an_image_without_labels_is_left_out(write, read_objects, caplog):
    write(**{"images/a.png": 9, "images/b.png": 9, "masks/a.png": 1})
    assert set(objects(read_objects)) == {"a.png"}
    assert "d/images/b.png" in caplog.text


def test_a_mask_of_many_parts_is_warned_of(write):
    array = np.zeros((HEIGHT, WIDTH), np.uint8)
    array[2:4, 2:4] = array[8:10, 8:10] = 255
    write(**{"images/a.png": 9, "masks/a.png": array})
    findings = Findings()
    read_data("d", findings=findings)
    (group,) = findings.groups("warning")
    assert group.examples[0].message == "the number 255 is in 2 parts"


@pytest.mark.parametrize("names, notes", [({}, 1), ({"names.txt": "cat"}, 0)])
def test_a_note_says_once_that_no_names_are_known(write, names, notes):
    files = {f"{x}/{part}/a.png": 1 for x in ("images", "masks") for part in ("train", "val")}
    write(**files, **names)
    findings = Findings()
    read_data("d", findings=findings)
    assert [(x.kind.name, x.count) for x in findings.groups()] == [
        ("label-images-one-class", 1)
    ] * notes


def test_lists_of_classes_say_nothing_of_the_numbers_of_objects(write, read_objects, numbers):
    write(**{"images/a.png": 9, "masks/a.png": numbers, "masks/classes.txt": "cat\ndog\nowl"})
    findings = Findings()
    found = objects(read_objects, findings=findings)
    assert {name for name, _ in found["a.png"]} == {"object"}
    assert "d/masks/classes.txt is not read" in next(findings.groups("note")).examples[0].line


@pytest.mark.parametrize(
    "others, names, warnings",
    [
        ([1, 2], {}, 1),
        ([253], {}, 1),
        ([1, 254], {}, 0),
        ([], {}, 0),
        ([1, 300], {}, 0),
        ([1], {"names.csv": "1,cat\n255,dog"}, 0),
    ],
)
def test_255_above_all_other_numbers_is_warned_of(write, read_objects, others, names, warnings):
    array = np.zeros((HEIGHT, WIDTH), np.uint16)
    for column, number in enumerate([255, *others]):
        array[:, 1 + column] = number
    write(**{"images/a.png": 9, "masks/a.png": array, **names})
    findings = Findings()
    found = objects(read_objects, findings=findings)
    assert len(found["a.png"]) == 1 + len(others)
    groups = [x.kind.name for x in findings.groups("warning")]
    assert groups == ["label-void"] * warnings


def test_rles_of_are_those_of_pycocotools():
    array = np.random.default_rng(0).integers(0, 4, (7, 5))
    array[:, -1] = 3  # a run to the end
    found = rles_of(array)
    assert list(found) == [1, 2, 3]
    for number, rle in found.items():
        mask = np.asfortranarray(array == number, dtype=np.uint8)
        assert rle["counts"].encode() == mask_util.encode(mask)["counts"]
    assert rles_of(np.zeros((3, 4), int)) == {}
