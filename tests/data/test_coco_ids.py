import copy

from pycocotools.coco import COCO

from queryinst.data.coco_ids import NumberedCOCO, number_ids

CONTENT = {
    "images": [{"id": "b", "width": 4}, {"id": "a", "width": 5}],
    "annotations": [
        {"id": 7, "image_id": "b", "category_id": 3},
        {"id": 0, "image_id": "gone", "category_id": 3},
        {"id": 2, "image_id": "a", "category_id": 3},
        {"id": 7, "image_id": "a", "category_id": 3},
    ],
    "categories": [{"id": 3, "name": "cat"}],
}


def test_number_ids_keeps_orders_repetitions_and_its_argument():
    before = copy.deepcopy(CONTENT)
    numbered, numbers = number_ids(CONTENT)
    assert CONTENT == before
    assert numbers == {"a": 1, "b": 2}
    assert numbered["images"] == [{"id": 2, "width": 4}, {"id": 1, "width": 5}]
    assert [(x["id"], x["image_id"]) for x in numbered["annotations"]] == [(1, 2), (2, 1), (1, 1)]
    assert numbered["categories"] == CONTENT["categories"]


def test_number_ids_passes_a_test_set_without_annotations():
    numbered, _ = number_ids({"images": CONTENT["images"]})
    assert "annotations" not in numbered


def test_numbered_coco_takes_results_by_the_ids_of_the_data_set():
    original = COCO()
    original.dataset = CONTENT
    numbered = NumberedCOCO(original, "mine")
    result = {"image_id": "b", "category_id": 3, "bbox": [0, 0, 2, 2], "score": 0.5}
    loaded = numbered.loadRes([result])
    assert [x["image_id"] for x in loaded.dataset["annotations"]] == [2]
    assert result["image_id"] == "b" and "area" not in result
    assert numbered.numbers_of(["a", "b"]) == [1, 2]
