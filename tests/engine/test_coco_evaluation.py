"""COCO's AP: which implementation is taken, and that its digits are pycocotools'."""

import copy
import json
import logging

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


def evaluate(name, predictions, folder):
    evaluator = TimedCOCOEvaluator(name, tasks=("bbox", "segm"), output_dir=str(folder))
    evaluator.reset()
    for image_id, instances in enumerate(copy.deepcopy(predictions)):
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


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
