import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from queryinst.own_data.contents import Content, Photo, load_content
from queryinst.own_data.outlines import one_polygon
from queryinst.own_data.sources import read_data
from queryinst.own_data.writing import write_content

HEIGHT, WIDTH = 30, 40


def encode(mask):
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def draw(polygons):
    rles = mask_util.frPyObjects(polygons, HEIGHT, WIDTH)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


@pytest.fixture
def content(tmp_path):
    """A data set of one image with these segmentations, of class "a" each."""

    def make(*segmentations, **fields):
        path = tmp_path / "photo.png"
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        record = {"id": 1, "file_name": "photo.png", "height": HEIGHT, "width": WIDTH}
        annotations = [
            {
                "id": 1,
                "category_id": 0,
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
                "segmentation": x,
                **fields,
            }
            for x in segmentations
        ]
        return Content(["a"], {"train": [Photo(str(path), record, annotations)]})

    return make


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_what_is_written_is_read_as_it_was(any_format, format, tmp_path, expected, read_objects):
    splits = read_data(any_format)
    assert write_content(load_content(splits), str(tmp_path / "out"), format) == []
    written = read_data(str(tmp_path / "out"))
    assert [split.name for split in written] == ["train", "val"]
    for split, source in zip(written, splits):
        assert read_objects(split.json_file) == expected[split.name]
        for name in expected[split.name]:
            copy, original = Path(split.image_root, name), Path(source.image_root, name)
            assert copy.read_bytes() == original.read_bytes() and not copy.is_symlink()
    assert load_content(written).classes == ["bolt", "nut", "washer"]


def test_yolo_has_what_ultralytics_reads(write_as, truth, tmp_path):
    write_content(load_content(read_data(str(write_as("coco")))), str(tmp_path / "out"), "yolo")
    about = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert about == {
        **{"train": "images/train", "val": "images/val", "nc": 3},
        "names": {0: "bolt", 1: "nut", 2: "washer"},
    }
    things = truth["val"]["photo 7.png"]
    lines = (tmp_path / "out" / "labels" / "val" / "photo 7.txt").read_text().splitlines()
    for line, thing in zip(lines, things, strict=True):
        index, *numbers = map(float, line.split())
        assert about["names"][index] == thing.name
        expected = np.reshape(thing.polygon, (-1, 2)) / [96, 64]
        np.testing.assert_allclose(np.reshape(numbers, (-1, 2)), expected, atol=1e-8)


def test_parts_of_one_object_become_one_line(content, tmp_path, read_objects):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:8, 3:9] = mask[12:20, 20:33] = mask[25:28, 5] = mask[8, 9] = True
    overlapping = [[1, 1, 20, 1, 20, 20, 1, 20], [10.3, 10.6, 35, 12, 30.5, 28]]
    outside = [[-5, 10, 20, -8, 50, 35.5]]
    data = content(encode(mask), overlapping, outside)
    assert write_content(data, str(tmp_path / "out"), "yolo") == []
    lines = (tmp_path / "out" / "labels" / "train" / "photo.txt").read_text().splitlines()
    assert len(lines) == 3
    (split,) = read_data(str(tmp_path / "out"))
    found = [mask for _, mask in read_objects(split.json_file)["photo.png"]]
    assert found == sorted(x.tobytes() for x in (mask, draw(overlapping), draw(outside)))


def test_what_yolo_cannot_hold_is_counted(content, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 5:20], mask[10:12, 10:12] = True, False
    empty = encode(np.zeros((HEIGHT, WIDTH), bool))
    data = content(encode(mask), encode(mask), empty)
    data.photos[0].annotations.append({**data.photos[0].annotations[0], "iscrowd": 1})
    warnings = write_content(data, str(tmp_path / "out"), "yolo")
    assert warnings == [
        "objects have lost their holes, which YOLO's polygons cannot have: 2",
        "objects are left out that have no pixel of a mask: 1",
        "crowds are left out, which YOLO's format does not have: 1",
    ]


@pytest.mark.parametrize("seed", range(8))
def test_one_polygon_draws_a_mask_without_its_holes(seed):
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH))
    mask = ndimage.gaussian_filter(noise, 1 + seed / 4) > np.median(noise)
    polygon, has_lost_holes = one_polygon(encode(mask), HEIGHT, WIDTH)
    filled = ndimage.binary_fill_holes(mask)
    assert np.array_equal(draw([polygon]), filled)
    assert has_lost_holes == bool((filled != mask).any())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
def test_one_polygon_draws_a_mask_of_many_parts(share):
    mask = np.random.default_rng(0).random((100, 150)) < share
    polygon, _ = one_polygon(encode(mask), *mask.shape)
    rle = mask_util.merge(mask_util.frPyObjects([polygon], *mask.shape))
    assert np.array_equal(mask_util.decode(rle), ndimage.binary_fill_holes(mask))


def test_coco_keeps_what_annotations_have(content, tmp_path):
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    data = content(square, area=64, score=0.5, attributes={"occluded": True})
    write_content(data, str(tmp_path / "out"), "coco")
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert written["annotations"] == [
        {
            **{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0},
            **{"segmentation": square, "area": 64, "score": 0.5, "attributes": {"occluded": True}},
        }
    ]


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_equal_names_are_kept_apart(tmp_path, format):
    photos = []
    for number, name in enumerate(["a.png", "a.png", "A.png", "sub/a.png", "a.bmp", "../a.png"]):
        path = tmp_path / f"{number}{Path(name).suffix}"
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(path)
        record = {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        photos.append(Photo(str(path), record, []))
    write_content(Content(["x"], {"train": photos}), str(tmp_path / "out"), format)
    top = tmp_path / "out" / ("train" if format == "coco" else "images/train")
    found = {str(x.relative_to(top)): np.asarray(Image.open(x))[0, 0, 0] for x in top.rglob("*.*")}
    bmp = "a.bmp" if format == "coco" else "a-4.bmp"
    last = "a-4.png" if format == "coco" else "a-5.png"
    names = ["a.png", "a-2.png", "A-3.png", "sub/a.png", bmp, last]
    assert found == {name: number for number, name in enumerate(names)}


def test_yolo_has_one_folder_images_in_a_path(content, tmp_path, read_objects):
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    first, second = content(square).photos[0], content(square, square).photos[0]
    for photo, name in ((first, "images/day/images/photo.png"), (second, "day/photo.png")):
        photo.record["file_name"] = name
    data = Content(["a"], {"train": [first, second]})
    write_content(data, str(tmp_path / "out"), "yolo")
    (split,) = read_data(str(tmp_path / "out"))
    found = {x: len(objects) for x, objects in read_objects(split.json_file).items()}
    assert found == {"photo.png": 1, "photo-2.png": 2}


@pytest.mark.parametrize("format", ["coco", "yolo"])
@pytest.mark.parametrize(
    "size, orientation, text",
    [((WIDTH // 2, HEIGHT // 2), 1, "is 20x15, its"), ((WIDTH, HEIGHT), 6, "orientation")],
)
def test_images_of_other_sizes_are_not_written(content, tmp_path, format, size, orientation, text):
    data = content([[1, 1, 9, 1, 9, 9, 1, 9]])
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(data.photos[0].path, exif=exif)
    with pytest.raises(ValueError, match=f"train: image .*photo.png .*{text}"):
        write_content(data, str(tmp_path / "out"), format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, format, written",
    [
        ("photo.jfif", "JPEG", "photo.jfif.jpg"),
        ("photo", "PNG", "photo.png"),
        ("photo.JPG", "PNG", "photo.JPG"),
        ("photo.1", "TIFF", "photo.1.tif"),
        (".day/.photo.png", "PNG", "photo.png"),
    ],
)
def test_yolo_has_suffixes_that_its_readers_know(
    content, tmp_path, read_objects, name, format, written
):
    data = content([[1, 1, 9, 1, 9, 9, 1, 9]])
    data.photos[0].record["file_name"] = name
    Image.new("RGB", (WIDTH, HEIGHT)).save(data.photos[0].path, format)
    write_content(data, str(tmp_path / "out"), "yolo")
    (split,) = read_data(str(tmp_path / "out"))
    found = read_objects(split.json_file)
    assert {name: len(objects) for name, objects in found.items()} == {written: 1}


def test_yolo_takes_no_images_that_its_readers_pass_over(content, tmp_path):
    data = content()
    data.photos[0].record["file_name"] = "photo.tga"
    Image.new("RGB", (WIDTH, HEIGHT)).save(data.photos[0].path, "TGA")
    with pytest.raises(ValueError, match="image .*photo.png is TGA, which YOLO's format"):
        write_content(data, str(tmp_path / "out"), "yolo")
    assert not (tmp_path / "out").exists()


def test_link_makes_links(content, tmp_path):
    write_content(content(), str(tmp_path / "out"), "coco", link=True)
    assert os.readlink(tmp_path / "out" / "train" / "photo.png") == str(tmp_path / "photo.png")


def test_nothing_is_left_of_a_writing_that_failed(content, tmp_path):
    data = content()
    os.remove(data.photos[0].path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data.yaml").write_text("before")
    with pytest.raises(FileNotFoundError, match="image .*photo.png does not exist"):
        write_content(data, str(tmp_path / "out"), "yolo")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "data.yaml").read_text() == "before"


def test_images_that_links_lead_to_are_not_replaced(content, tmp_path):
    write_content(content(), str(tmp_path / "first"), "coco")
    first = load_content(read_data(str(tmp_path / "first")))
    write_content(first, str(tmp_path / "second"), "coco", link=True)
    second = load_content(read_data(str(tmp_path / "second")))
    with pytest.raises(ValueError, match="first would replace .*second/.*photo.png, which is read"):
        write_content(second, str(tmp_path / "first"), "coco", link=True)
    assert (tmp_path / "second" / "train" / "photo.png").is_file()


def test_yolo_takes_one_part_of_any_name_and_no_several(content, tmp_path):
    photos = content().photos
    write_content(Content(["a"], {"birds": photos}), str(tmp_path / "out"), "yolo")
    assert (tmp_path / "out" / "images" / "train" / "photo.png").exists()
    with pytest.raises(ValueError, match="has train, val and test, not 'birds'"):
        write_content(Content(["a"], {"birds": photos, "val": photos}), str(tmp_path / "b"), "yolo")


def test_load_content_unites_categories_by_name(tmp_path):
    for part, names in (("train", {9: "cat", 4: "dog"}), ("val", {1: "cat", 2: "dog", 3: "eel"})):
        folder = tmp_path / "data" / part
        folder.mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
        fields = {"image_id": 1, "bbox": [1, 1, 8, 8], "segmentation": [[1, 1, 9, 1, 9, 9]]}
        content = {
            "licenses": [{"id": 1}],
            "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"id": i, "category_id": i, **fields} for i in names],
            "categories": [{"id": i, "name": name} for i, name in names.items()],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    content = load_content(read_data(str(tmp_path / "data")))
    assert content.classes == ["dog", "cat", "eel"] and content.extras == {"licenses": [{"id": 1}]}
    found = [[x["category_id"] for x in photo.annotations] for photo in content.photos]
    assert found == [[1, 0], [1, 0, 2]]
