import json
import pickle

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from queryinst_runtime import Result
from queryinst_runtime.masks import encode_rle

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def make_result(**changes):
    """Two rectangles, 10..30 x 5..25 and 30..60 x 20..40, the second over the border."""
    boxes = np.array([[10, 5, 30, 25], [30, 20, 60, 40]], np.float32)
    mask_boxes = boxes.copy()
    mask_boxes[1, 2:] = [70, 50]
    values = {
        "image_size": (40, 60),
        "boxes": boxes,
        "scores": np.array([0.9, 0.4], np.float32),
        "classes": np.array([1, 0]),
        "query_idx": np.array([7, 3]),
        "class_names": ("cat", "dog"),
        "category_ids": (17, 18),
        "mask_scores": np.ones((2, 28, 28), np.float32),
        "mask_boxes": mask_boxes,
        "image": IMAGE,
    }
    return Result(**values | changes)


def expected_masks():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:25, 10:30] = masks[1, 20:40, 30:60] = True
    return masks


def with_rles():
    rles = [encode_rle(mask) for mask in expected_masks()]
    return make_result(mask_scores=None, mask_boxes=None, rles=rles)


@pytest.mark.parametrize("make", [make_result, with_rles])
def test_result_pastes_masks_on_demand(make):
    result = make()
    assert np.array_equal(result.masks, expected_masks())
    assert np.array_equal(result.mask(1), expected_masks()[1])
    assert result[:0].masks.shape == (0, 40, 60)


def test_result_has_names():
    result = make_result()
    assert result.names == ["dog", "cat"] and len(result) == 2
    assert repr(result) == "Result(1 dog, 1 cat; 60x40 pixels)"
    assert make_result(class_names=()).names == ["class 1", "class 0"]
    assert repr(result[:0]) == "Result(nothing; 60x40 pixels)"


@pytest.mark.parametrize("make", [make_result, with_rles])
@pytest.mark.parametrize(
    "index",
    [1, -1, np.int64(1), slice(1, 2), [1], np.array([1]), np.array(1), np.array([False, True])],
)
def test_result_of_an_index_has_that_object(make, index):
    part = make()[index]
    assert part.scores.tolist() == [np.float32(0.4)] and part.query_idx.tolist() == [3]
    assert np.array_equal(part.masks, expected_masks()[1:])


def test_result_iterates_over_its_objects():
    assert [part.names for part in make_result()] == [["dog"], ["cat"]]
    with pytest.raises(IndexError, match="object 2 of 2"):
        make_result()[2]


@pytest.mark.parametrize("make", [make_result, with_rles])
def test_result_pickles(make):
    result = make()
    copy = pickle.loads(pickle.dumps(result))
    assert np.array_equal(copy.masks, result.masks) and copy.names == result.names
    assert np.array_equal(np.asarray(copy.draw()), np.asarray(result.draw()))


def test_result_stays_on_the_cpu():
    result = make_result()
    assert result.to("cpu") is result
    with pytest.raises(ValueError, match="not cuda"):
        result.to("cuda")


@pytest.mark.parametrize("make", [make_result, with_rles])
def test_to_coco_gives_original_ids_and_codes(make):
    entries = json.loads(json.dumps(make().to_coco(image_id="a.jpg")))
    assert [entry["category_id"] for entry in entries] == [18, 17]
    assert entries[1]["bbox"] == [30, 20, 30, 20] and entries[1]["image_id"] == "a.jpg"
    assert [entry["area"] for entry in entries] == [400, 600]
    decoded = [coco_mask.decode(entry["segmentation"]) for entry in entries]
    assert np.array_equal(np.array(decoded, bool), expected_masks())


def test_to_coco_without_ids_and_masks():
    result = make_result(category_ids=(), mask_scores=None, mask_boxes=None)
    entries = result.to_coco()
    assert [entry["category_id"] for entry in entries] == [2, 1]
    assert entries[0]["area"] == 400 and "segmentation" not in entries[0]
    with pytest.raises(ValueError, match="no masks"):
        result.mask(0)


def test_to_polygons_are_in_the_image():
    outlines = make_result().to_polygons()
    assert [len(parts) for parts in outlines] == [1, 1]
    corners = {tuple(corner) for corner in outlines[0][0].tolist()}
    assert corners == {(10, 5), (10, 25), (30, 25), (30, 5)} and len(outlines[0][0]) == 4


def test_to_supervision():
    supervision = pytest.importorskip("supervision")
    detections = make_result().to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert np.array_equal(detections.mask, expected_masks())
    assert detections.data["class_name"].tolist() == ["dog", "cat"]


def test_draw_tints_the_objects_alone():
    large = np.zeros((400, 600, 3), np.uint8)  # not enlarged
    result = make_result(image_size=(400, 600), image=large)
    result.boxes *= 10
    result.mask_boxes *= 10
    drawn = np.asarray(result.draw())
    assert drawn.shape == large.shape
    assert drawn[150, 200].any() and drawn[300, 450].any()
    assert not drawn[350, 100].any()


def test_draw_enlarges_small_images_and_takes_another():
    assert make_result().draw().size == (240, 160)
    other = make_result(image=None)
    assert other.draw(IMAGE).size == (240, 160)
    with pytest.raises(ValueError, match="no image to draw on"):
        other.draw()
    with pytest.raises(ValueError, match="60, 40"):
        other.draw(IMAGE[:20])


def test_draw_reads_a_file_again(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    from_file = make_result(image=str(tmp_path / "image.png")).draw()
    assert np.array_equal(np.asarray(from_file), np.asarray(make_result().draw()))


def test_save_writes_pictures_and_json(tmp_path):
    make_result().save(tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").size == (240, 160)
    make_result().save(tmp_path / "found.json")
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2
    with pytest.raises(ValueError, match="drawn.xyz"):
        make_result().save(tmp_path / "drawn.xyz")
