import base64
import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from queryinst.data.findings import Findings
from queryinst.own_data.sources import read_data

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def labelme(tmp_path, monkeypatch):
    """Writes d/a.png and d/a.json with shapes, or others; fields of the JSON by their names."""
    monkeypatch.chdir(tmp_path)

    def write(*shapes, image="a.png", json_file="a.json", **fields):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for name in (image, json_file):
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "d" / image)
        content = {"shapes": list(shapes), "imagePath": image, "imageData": None}
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, **fields}
        (tmp_path / "d" / json_file).write_text(json.dumps(content))

    return write


def shape(points, label="cat", kind="polygon", **fields):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **fields}


def box_mask(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def masks_of(read_objects, name="a.png", **options):
    (split,) = read_data("d", **options)
    return [
        (label, np.frombuffer(mask, bool).reshape(HEIGHT, WIDTH))
        for label, mask in read_objects(split.json_file)[name]
    ]


def test_a_rectangle_has_any_two_corners(labelme, read_objects):
    labelme(shape([[30, 5], [10, 25]], kind="rectangle"))
    ((name, mask),) = masks_of(read_objects)
    assert name == "cat" and np.array_equal(mask, box_mask(10, 5, 30, 25))


def test_a_circle_has_the_pixels_whose_centres_are_in_it(labelme, read_objects):
    labelme(shape([[30.2, 20.1], [30.2, 8.0]], kind="circle"))
    ((_, mask),) = masks_of(read_objects)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - 30.2, y - 20.1) - 12.1
    is_clear = np.abs(distance) > 0.3  # COCO draws on a grid of fifths of a pixel
    assert is_clear.mean() > 0.9 and np.array_equal(mask[is_clear], (distance < 0)[is_clear])


def test_a_group_is_one_object(labelme, read_objects):
    parts = [[[2, 2], [9, 2], [9, 9], [2, 9]], [[20, 2], [29, 2], [29, 9], [20, 9]]]
    labelme(
        *(shape(points, group_id=7) for points in parts),
        shape(parts[0], "dog", group_id=7),
        shape([[40, 2], [50, 12]], "dog", "rectangle"),
    )
    (cat, both), (dog, _), (other, _) = masks_of(read_objects)
    assert (cat, dog, other) == ("cat", "dog", "dog")
    assert np.array_equal(both, box_mask(2, 2, 9, 9) | box_mask(20, 2, 29, 9))


def test_a_mask_is_drawn_from_its_picture(labelme, read_objects):
    inner = np.zeros((5, 8), bool)
    inner[1:4, 2:] = True
    png = io.BytesIO()
    Image.fromarray(inner).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    labelme(shape([[10, 20], [17, 24]], kind="mask", mask=text))
    ((_, mask),) = masks_of(read_objects)
    assert np.array_equal(mask, box_mask(12, 21, 18, 24))


@pytest.mark.parametrize(
    "image, json_file, named",
    [
        ("a.png", "a.json", "a.png"),
        ("images/a.png", "labels/a.json", "../images/a.png"),
        ("images/a.png", "labels/a.json", "..\\images\\a.png"),
        ("a.png", "a.json", "C:\\Users\\me\\photos\\a.png"),
        ("a.png", "a.json", "/home/me/photos/a.png"),
        ("img/a.png", "ann/a.json", "a.png"),
        ("a.PNG", "a.json", "a.png"),
    ],
)
def test_an_image_is_found_by_its_path_or_its_name(labelme, read_objects, image, json_file, named):
    labelme(
        shape([[2, 2], [9, 9]], kind="rectangle"), image=image, json_file=json_file, imagePath=named
    )
    ((_, mask),) = masks_of(read_objects, image.rpartition("/")[2])
    assert np.array_equal(mask, box_mask(2, 2, 9, 9))


def test_classes_are_sorted_and_the_same_in_all_parts(labelme):
    for part, label in (("train", "zebra"), ("valid", "ant"), ("test", "cat")):
        square = shape([[2, 2], [9, 9]], label, "rectangle")
        labelme(
            square,
            image=f"{part}/{part}.png",
            json_file=f"{part}/{part}.json",
            imagePath=f"{part}.png",
        )
    splits = read_data("d")
    assert [split.name for split in splits] == ["train", "val", "test"]
    for split in splits:
        categories = json.loads(open(split.json_file).read())["categories"]
        assert categories == [
            {"id": i, "name": x} for i, x in enumerate(["ant", "cat", "zebra"], 1)
        ]


def test_points_and_lines_are_left_out_with_a_warning(labelme, read_objects, caplog):
    square = shape([[2, 2], [9, 9]], kind="rectangle")
    labelme(square, shape([[1, 1]], kind="point"), shape([[1, 1], [5, 5]], kind="line"))
    with caplog.at_level(logging.WARNING):
        assert len(masks_of(read_objects)) == 1
    (record,) = caplog.records
    assert (
        record.getMessage().startswith("2 x points and lines")
        and "shapes[1]" in record.getMessage()
    )


def test_images_without_a_json_are_left_out_with_a_warning(labelme, read_objects, caplog):
    labelme(shape([[2, 2], [9, 9]], kind="rectangle"))
    Image.new("RGB", (5, 5)).save("d/b.png")
    (split,) = read_data("d")
    assert list(read_objects(split.json_file)) == ["a.png"]
    assert "d/b.png" in caplog.text


TRIANGLE = [[1, 1], [9, 1], [9, 9]]


@pytest.mark.parametrize(
    "wrong, text",
    [
        (shape([[1, 1], [9, float("nan")], [9, 9]]), "has the point [9, nan]"),
        (shape([[1, 1], [9, float("inf")], [9, 9]]), "has the point [9, inf]"),
        (shape([[1, 1], [9, "1"], [9, 9]]), "has the point [9, '1']"),
        (shape([[1, 1], [9, 2e8], [9, 9]]), "has the point [9, 200000000.0]"),
        (shape([[1, 1], [9], [9, 9]]), "has the point [9]"),
        (shape(None), "has the point None"),
        (shape([[1, 1], [9, 9]]), "is a polygon of 2 points, which must be 3 or more"),
        (shape(TRIANGLE, kind="rectangle"), "is a rectangle of 3 points"),
        (shape(TRIANGLE, kind="circle"), "is a circle of 3 points"),
        (shape([[1, 1], [1, 1]], kind="circle"), "is a circle of radius 0"),
        (shape(TRIANGLE, kind="cube"), "has the shape_type 'cube', which must be one of polygon"),
        (shape(TRIANGLE, label=""), "has the label ''"),
        (shape(TRIANGLE, label=3), "has the label 3"),
        (shape(TRIANGLE, label="a "), "has the label 'a ', which must be a line of text without"),
        (shape([[1, 1], [9, 9]], kind="mask", mask="no"), "has a mask that cannot be read"),
        ("cat", "is 'cat', not an object"),
    ],
)
def test_a_wrong_shape_is_named(labelme, read_objects, wrong, text):
    labelme(shape(TRIANGLE), wrong)
    with pytest.raises(ValueError) as error:
        read_data("d")
    message = str(error.value)
    assert message.startswith(f"d/a.json: shapes[1] {text}") and "\n" not in message
    findings = Findings()
    assert len(masks_of(read_objects, findings=findings)) == 1 and findings.count("error") == 1


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"shapes": {}}, "d/a.json has the shapes {}, not a list"),
        ({"imageWidth": 61}, "d/a.json is of an image of 61 x 40 pixels, d/a.png has 60 x 40"),
        ({"imageHeight": "40"}, "d/a.json is of an image of 60 x '40' pixels"),
        ({"imagePath": None}, "d/a.json has the imagePath None"),
        ({"imagePath": "b.png"}, "d/a.json: its image 'b.png' is not there"),
    ],
)
def test_a_wrong_file_is_named(labelme, fields, text):
    labelme(shape(TRIANGLE), **fields)
    with pytest.raises(ValueError) as error:
        read_data("d")
    assert str(error.value).startswith(text)


def test_sizes_may_be_missing(labelme, read_objects):
    labelme(shape([[2, 2], [9, 9]], kind="rectangle"), imageHeight=None, imageWidth=None)
    assert len(masks_of(read_objects)) == 1
    labelme(shape([[2, 2], [9, 9]], kind="rectangle"), imageHeight=None)
    assert len(masks_of(read_objects)) == 1


def test_a_broken_json_is_named(labelme, tmp_path):
    labelme(shape(TRIANGLE))
    path = tmp_path / "d" / "a.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match="d/a.json is not valid JSON: line 1"):
        read_data("d")


def test_an_image_of_two_json_files_is_an_error(labelme):
    for name in ("a.json", "b.json"):
        labelme(shape(TRIANGLE), json_file=name)
    with pytest.raises(ValueError, match="d/b.json is of d/a.png, as d/a.json is"):
        read_data("d")


def test_links_and_hidden_folders_do_no_harm(labelme, read_objects, tmp_path):
    labelme(
        shape(TRIANGLE), image="elsewhere/a.png", json_file="elsewhere/a.json", imagePath="a.png"
    )
    (tmp_path / "d" / "elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "d" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / ".cache").mkdir()
    (tmp_path / "d" / ".cache" / "a.json").write_text((tmp_path / "elsewhere/a.json").read_text())
    (split,) = read_data("d")
    assert split.name == "train" and list(read_objects(split.json_file)) == ["a.png"]


def test_nothing_annotated_is_an_error(labelme):
    labelme()
    with pytest.raises(ValueError, match="d has no annotated objects"):
        read_data("d")
    findings = Findings()
    assert read_data("d", findings=findings) == [] and findings.count("error") == 1
