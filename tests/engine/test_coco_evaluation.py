"""COCO's AP: which implementation is taken, and that its digits are pycocotools'."""

import copy
import importlib
import json
import logging
from collections import Counter

import numpy as np
import pycocotools.cocoeval
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import coco_evaluation
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from queryinst.engine.coco_evaluation import TimedCOCOEvaluator, describe, find_implementation

SIZE = 64
NUM_IMAGES, NUM_CLASSES = 12, 3


def rectangle(rng) -> list[float]:
    """x, y, width, height; from a few pixels to most of the image, so that all areas occur."""
    side = np.exp(rng.uniform(np.log(4), np.log(60), 2))
    corner = rng.uniform(0, SIZE * 4 - side)
    return [*corner, *side]


def polygon(box) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x + w / 3, y + h]]


@pytest.fixture
def data(tmp_path):
    """A registered data set, some crowds among its instances, and predictions near most of them."""
    rng = np.random.default_rng(0)
    side = SIZE * 4
    annotations, predictions = [], []
    for image_id in range(NUM_IMAGES):
        detections = []
        for _ in range(rng.integers(0, 8)):
            box = rectangle(rng)
            category = int(rng.integers(NUM_CLASSES))
            is_crowd = bool(rng.random() < 0.1)
            shape = polygon(box)
            if is_crowd:
                rle = mask_util.merge(mask_util.frPyObjects(shape, side, side))
                shape = {**rle, "counts": rle["counts"].decode()}
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "bbox": box}
            annotation |= {"category_id": category + 1, "iscrowd": int(is_crowd)}
            annotations.append(annotation | {"segmentation": shape, "area": box[2] * box[3] * 0.8})
            for _ in range(rng.integers(0, 3)):
                moved = list(np.array(box) * rng.uniform(0.85, 1.15, 4))
                detections.append((moved, round(rng.random(), 1), category))  # equal scores occur
        detections += [
            (rectangle(rng), rng.random(), int(rng.integers(NUM_CLASSES))) for _ in range(2)
        ]
        predictions.append(to_instances(detections, side))
    images = [
        {"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in range(NUM_IMAGES)
    ]
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
    path = tmp_path / "truth.json"
    truth = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(truth))
    name = "test_coco_evaluation"
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(NUM_CLASSES)},
    )
    yield name, predictions
    MetadataCatalog.remove(name)


def to_instances(detections, side) -> Instances:
    boxes = np.array([box for box, _, _ in detections])
    instances = Instances((side, side))
    instances.pred_boxes = Boxes(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    instances.scores = np.array([score for _, score, _ in detections])
    instances.pred_classes = np.array([category for _, _, category in detections])
    instances.pred_masks = np.stack(
        [
            mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygon(box), side, side)))
            for box, _, _ in detections
        ]
    )
    return instances


def evaluate(name, predictions, folder, image_ids=range(NUM_IMAGES), **more):
    evaluator = TimedCOCOEvaluator(name, tasks=("bbox", "segm"), output_dir=str(folder), **more)
    evaluator.reset()
    for image_id, instances in zip(image_ids, copy.deepcopy(predictions)):
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def change_truth(name, change):
    path = MetadataCatalog.get(name).json_file
    truth = json.loads(open(path).read())
    change(truth)
    open(path, "w").write(json.dumps(truth))


IMPLEMENTATIONS = (
    "pycocotools.cocoeval.COCOeval",
    "faster_coco_eval.COCOeval_faster",
    "detectron2.evaluation.fast_eval_api.COCOeval_opt",  # needs Detectron2's compiled operators
)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    module, _, name = request.param.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.setattr("queryinst.engine.coco_evaluation.find_implementation", lambda: found)
    return found


# All sort as the numbers that they stand for.
IDS = {
    "text": lambda number: f"image {number:03}.png",
    "whole floats": lambda number: float(number),
    "floats": lambda number: number + 0.5,
    "above 2**53": lambda number: 2**60 + number,
    "on both sides of 2**63": lambda number: 2**63 - 5 + number,
    "of 100 bits": lambda number: 2**100 + number,
    "negative": lambda number: number - 100,
}


@pytest.mark.parametrize("kind", IDS)
def test_timed_coco_evaluator_gives_the_same_digits_for_ids_of_any_kind(
    data, tmp_path, implementation, kind
):
    name, predictions = data
    expected = evaluate(name, predictions, tmp_path / "expected")
    as_id = IDS[kind]

    def change(truth):
        for image in truth["images"]:
            image["id"] = as_id(image["id"])
        for annotation in truth["annotations"]:
            annotation["image_id"] = as_id(annotation["image_id"])
            annotation["id"] = as_id(annotation["id"])

    change_truth(name, change)
    ids = [as_id(number) for number in range(NUM_IMAGES)]
    results = evaluate(name, predictions, tmp_path / "changed", ids)
    np.testing.assert_equal(results, expected)
    assert 0 < results["segm"]["AP"] < 100
    file = json.loads((tmp_path / "changed" / "coco_instances_results.json").read_text())
    assert {row["image_id"] for row in file} <= set(ids)


def test_timed_coco_evaluator_counts_an_object_whose_id_is_0(data, tmp_path, implementation):
    name, predictions = data
    expected = evaluate(name, predictions, tmp_path)
    change_truth(name, lambda truth: [x.update(id=x["id"] - 1) for x in truth["annotations"]])
    np.testing.assert_equal(evaluate(name, predictions, tmp_path), expected)


@pytest.mark.parametrize("change", [lambda id_: id_, "image {}".format])
def test_timed_coco_evaluator_evaluates_some_of_the_images(data, tmp_path, implementation, change):
    name, predictions = data

    def rename(truth):
        for image in truth["images"]:
            image["id"] = change(image["id"])
        for annotation in truth["annotations"]:
            annotation["image_id"] = change(annotation["image_id"])

    def evaluator(num_images):
        made = TimedCOCOEvaluator(name, tasks=("bbox",), output_dir=str(tmp_path))
        made.reset()
        for image_id, instances in enumerate(copy.deepcopy(predictions[:num_images])):
            made.process([{"image_id": change(image_id)}], [{"instances": instances}])
        return made

    change_truth(name, rename)
    some = [change(number) for number in range(5)]
    result = evaluator(NUM_IMAGES).evaluate(img_ids=some)
    change_truth(name, lambda truth: truth.update(images=truth["images"][:5]))
    np.testing.assert_equal(result, evaluator(5).evaluate())
    assert result["bbox"]["AP"] > 0


def test_timed_coco_evaluator_refuses_predictions_of_other_images(data, tmp_path):
    with pytest.raises(ValueError, match="'test_coco_evaluation' has no image 'no such', which"):
        evaluate(*data, tmp_path, [*range(NUM_IMAGES - 1), "no such"])


def crowded(num_objects):
    """One image with this many objects of one class in a row, and its predictions, all right."""
    boxes = [[10 * n, 0, 8, 8] for n in range(num_objects)]
    truth = [{"bbox": box, "segmentation": polygon(box), "area": 48} for box in boxes]
    side = 10 * num_objects
    instances = Instances((side, side))
    corners = np.array(boxes, dtype=float)
    corners[:, 2:] += corners[:, :2]
    instances.pred_boxes = Boxes(corners)
    instances.scores = np.linspace(0.9, 0.1, num_objects)
    instances.pred_classes = np.zeros(num_objects, dtype=int)
    return truth, instances, side


@pytest.mark.parametrize("num_objects, max_detections", [(120, 100), (120, 150), (90, 100)])
def test_timed_coco_evaluator_counts_as_many_detections_as_the_model_returns(
    data, tmp_path, caplog, implementation, num_objects, max_detections
):
    name, _ = data
    objects, instances, side = crowded(num_objects)

    def change(truth):
        known = {"image_id": 0, "category_id": 1, "iscrowd": 0}
        truth["annotations"] = [{**x, **known, "id": i + 1} for i, x in enumerate(objects)]
        truth["images"][0].update(height=side, width=side)

    change_truth(name, change)
    evaluator = TimedCOCOEvaluator(name, tasks=("bbox",), max_detections=max_detections)
    evaluator.reset()
    evaluator.process([{"image_id": 0}], [{"instances": instances}])
    with caplog.at_level(logging.INFO, logger="queryinst"):
        results = evaluator.evaluate()["bbox"]
    found = min(num_objects, max_detections) / num_objects
    # AP is over 101 points of recall, of which those above `found` count 0.
    expected = np.mean([recall <= found + 1e-9 for recall in np.linspace(0, 1, 101)]) * 100
    assert results["AP"] == results["AP50"] == results["APs"] == pytest.approx(expected)
    assert results["AP-class 0"] == pytest.approx(expected)
    assert ("of up to 150 detections an image" in caplog.text) == (max_detections == 150)


@pytest.mark.parametrize(
    "limits, line",
    [
        ({}, "1 images of 'test_coco_evaluation' have more than 100 objects, up to 120"),
        ({"max_detections": 50}, "have more than 50 objects"),
        ({"max_detections": 300, "num_queries": 110}, "have more than 110 objects"),
        ({"max_detections": 300, "num_queries": 30}, "have more than 100 objects"),
        ({"max_detections": 300, "num_queries": 300}, ""),
        ({"max_detections": 120}, ""),
    ],
)
def test_timed_coco_evaluator_warns_once_of_more_objects_than_can_be_found(
    data, caplog, monkeypatch, limits, line
):
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    name, _ = data

    def change(truth):
        known = {"image_id": 3, "category_id": 1, "area": 4, "bbox": [0, 0, 2, 2]}
        crowds = [{**known, "iscrowd": 1}] * 500  # which are no objects
        truth["annotations"] = [{**known, "iscrowd": 0}] * 120 + crowds
        truth["annotations"] = [{**x, "id": i + 1} for i, x in enumerate(truth["annotations"])]

    change_truth(name, change)
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        for _ in range(2):  # a training evaluates again and again
            TimedCOCOEvaluator(name, tasks=("bbox",), output_dir=None, **limits)
    assert len(caplog.records) == bool(line) and line in caplog.text


def test_timed_coco_evaluator_logs_implementation_and_time(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        "queryinst.engine.coco_evaluation.find_implementation",
        lambda: pycocotools.cocoeval.COCOeval,
    )
    with caplog.at_level(logging.INFO, logger="queryinst"):
        results = evaluate(*data, tmp_path)
    assert 0 < results["segm"]["AP"] < 100 and 0 < results["bbox"]["AP"] < 100
    (line,) = [x.getMessage() for x in caplog.records if x.getMessage().startswith("AP of")]
    assert line.startswith("AP of 'test_coco_evaluation' by pycocotools 2.")
    assert line.endswith(" s")


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [100000, 100000], "counts": "1"}, "'size' .100000, 100000."),
        ({"size": [SIZE * 4, SIZE * 4], "counts": "oooo"}, "end within a number"),
        ([[0, 0, 1e18, 0, 5, 5]], "numbers from -1000000 to 1000000"),
    ],
)
@pytest.mark.parametrize("is_crowd", [0, 1])
def test_timed_coco_evaluator_refuses_malformed_ground_truth(
    data, tmp_path, segmentation, message, is_crowd
):
    path = MetadataCatalog.get(data[0]).json_file
    truth = json.loads(open(path).read())
    truth["annotations"][2].update(segmentation=segmentation, iscrowd=is_crowd)
    open(path, "w").write(json.dumps(truth))
    with pytest.raises(ValueError, match=f"'{data[0]}': annotation 3 of image .*{message}"):
        evaluate(*data, tmp_path)


def test_timed_coco_evaluator_passes_a_polygon_of_two_points_beside_another(
    data, tmp_path, monkeypatch
):
    """Training leaves it out; pycocotools takes it for a box, and fails after the training."""
    monkeypatch.setattr(
        "queryinst.engine.coco_evaluation.find_implementation",
        lambda: pycocotools.cocoeval.COCOeval,
    )
    expected = evaluate(*data, tmp_path)
    path = MetadataCatalog.get(data[0]).json_file
    truth = json.loads(open(path).read())
    for annotation in truth["annotations"]:
        if isinstance(annotation["segmentation"], list):
            annotation["segmentation"].insert(0, [1, 2, 3, 4])
    open(path, "w").write(json.dumps(truth))
    np.testing.assert_equal(evaluate(*data, tmp_path), expected)


def test_find_implementation_gives_the_same_digits_by_faster_coco_eval(
    data, tmp_path, caplog, monkeypatch
):
    pytest.importorskip("faster_coco_eval")
    before = coco_evaluation.COCOeval_opt
    assert describe(find_implementation()).startswith("faster-coco-eval ")
    with caplog.at_level(logging.INFO, logger="queryinst"):
        fast = evaluate(*data, tmp_path / "fast")
    assert "by faster-coco-eval" in caplog.text
    assert coco_evaluation.COCOeval_opt is before  # Detectron2 is as it was
    monkeypatch.setattr(
        "queryinst.engine.coco_evaluation.find_implementation",
        lambda: pycocotools.cocoeval.COCOeval,
    )
    official = evaluate(*data, tmp_path / "official")
    assert fast.keys() == official.keys() == {"bbox", "segm"}
    for task, metrics in official.items():
        assert len(metrics) == 6 + NUM_CLASSES
        for metric, value in metrics.items():
            assert fast[task][metric] == pytest.approx(value, abs=1e-9, nan_ok=True), metric


@pytest.mark.parametrize("installed", [None, "1.7.9"])
def test_find_implementation_falls_back_to_detectron2s(monkeypatch, installed):
    from importlib.metadata import PackageNotFoundError

    def find(name):
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr("queryinst.engine.coco_evaluation.version", find)
    assert find_implementation() is coco_evaluation.COCOeval_opt


def test_describe_names_detectron2s_own():
    class COCOeval_opt(pycocotools.cocoeval.COCOeval):
        pass

    assert describe(COCOeval_opt) == "Detectron2's COCOeval_opt"
