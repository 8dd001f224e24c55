import json
import math
import sys
from types import ModuleType

import detectron2.evaluation
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from queryinst.engine.evaluation import (
    build_evaluator,
    by_dataset,
    evaluator_type,
    results_table,
    write_results,
)
from queryinst.testing import tiny_cfg

PACKAGES = {"lvis": "lvis", "cityscapes_instance": "cityscapesscripts"}


@pytest.fixture
def data_set():
    """A function that registers a data set of one image and of some evaluator_type."""
    names = []

    def register(kind):
        name = f"test_evaluation_{len(names)}"
        annotation = {"bbox": [2, 2, 8, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        annotation["segmentation"] = [[2, 2, 10, 2, 10, 10, 2, 10]]
        image = {"file_name": "a.png", "image_id": 1, "height": 16, "width": 16}
        DatasetCatalog.register(name, lambda: [{**image, "annotations": [annotation]}])
        MetadataCatalog.get(name).set(thing_classes=["square", "star"])
        if kind:
            MetadataCatalog.get(name).set(evaluator_type=kind)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("kind, name", [("lvis", "LVIS"), ("cityscapes_instance", "Cityscapes")])
@pytest.mark.parametrize("present", [True, False])
def test_build_evaluator_supports_lvis_and_cityscapes_if_installed(
    data_set, monkeypatch, tmp_path, kind, name, present
):
    made = []
    classes = {"LVIS": "LVISEvaluator", "Cityscapes": "CityscapesInstanceEvaluator"}
    monkeypatch.setattr(
        detectron2.evaluation, classes[name], lambda *args, **kwargs: made.append((args, kwargs))
    )
    package = ModuleType(PACKAGES[kind]) if present else None  # None: import fails
    monkeypatch.setitem(sys.modules, PACKAGES[kind], package)
    cfg = tiny_cfg(OUTPUT_DIR=str(tmp_path))
    dataset_name = data_set(kind)
    if not present:
        with pytest.raises(ImportError, match=f"{dataset_name}.*pip install {PACKAGES[kind]}"):
            build_evaluator(cfg, dataset_name)
        return
    build_evaluator(cfg, dataset_name)
    ((args, kwargs),) = made
    assert args == (dataset_name,)
    if kind == "lvis":
        folder = str(tmp_path / "inference" / dataset_name)
        assert kwargs == {"tasks": ("bbox", "segm"), "output_dir": folder}
        build_evaluator(tiny_cfg(OUTPUT_DIR="a", TEST__DETECTIONS_PER_IMAGE=400), dataset_name)
        assert made[1][1]["max_dets_per_image"] == 400


def test_evaluator_type_refuses_cityscapes_without_masks(data_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", ModuleType("cityscapesscripts"))
    with pytest.raises(ValueError, match="set MODEL.MASK_ON True"):
        evaluator_type(tiny_cfg(MODEL__MASK_ON=False), data_set("cityscapes_instance"))


def test_evaluator_type_names_an_unknown_type(data_set):
    with pytest.raises(ValueError, match="of type 'panoptic'.* coco, lvis, cityscapes_instance"):
        evaluator_type(tiny_cfg(), data_set("panoptic"))


def prediction(boxes):
    instances = Instances((16, 16))
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = torch.ones(len(boxes))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    masks = torch.zeros(len(boxes), 16, 16, dtype=torch.bool)
    masks[:, 2:10, 2:10] = True
    instances.pred_masks = masks
    return {"instances": instances}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("kind", ["coco", None])
def test_build_evaluator_uses_coco_by_default_and_masks_if_on(data_set, tmp_path, masks, kind):
    name = data_set(kind)
    if kind == "coco":  # otherwise the evaluator makes a JSON of the data set itself
        build_evaluator(tiny_cfg(OUTPUT_DIR=str(tmp_path / "json")), name)
    evaluator = build_evaluator(tiny_cfg(OUTPUT_DIR=str(tmp_path), MODEL__MASK_ON=masks), name)
    assert isinstance(evaluator, COCOEvaluator)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [prediction([[2.0, 2.0, 10.0, 10.0]])])
    results = evaluator.evaluate()
    assert set(results) == ({"bbox", "segm"} if masks else {"bbox"})
    assert all(task["AP"] == pytest.approx(100) for task in results.values())
    file = tmp_path / "inference" / name / "coco_instances_results.json"
    assert json.loads(file.read_text())[0]["bbox"] == [2, 2, 8, 8]


def test_build_evaluator_knows_how_much_the_model_can_find(data_set, tmp_path, monkeypatch):
    cfg = tiny_cfg(OUTPUT_DIR=str(tmp_path), TEST__DETECTIONS_PER_IMAGE=250)
    assert build_evaluator(cfg, data_set(None))._max_dets_per_image == [1, 10, 250]
    made = []
    monkeypatch.setattr(
        "queryinst.engine.evaluation.TimedCOCOEvaluator", lambda *_, **limits: made.append(limits)
    )
    build_evaluator(cfg, data_set(None))
    assert (made[0]["max_detections"], made[0]["num_queries"]) == (250, 6)


def test_write_results_writes_null_without_predictions(data_set, tmp_path):
    evaluator = build_evaluator(tiny_cfg(OUTPUT_DIR=str(tmp_path)), data_set(None))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [prediction([])])
    results = {"mine": evaluator.evaluate()}
    assert math.isnan(results["mine"]["segm"]["AP"])
    path = write_results(str(tmp_path), results)
    assert json.loads(open(path).read())["mine"]["segm"]["AP"] is None
    assert "| mine       |        - |" in results_table(results)


def test_by_dataset_names_a_single_data_set():
    one, two = tiny_cfg(DATASETS__TEST=("a",)), tiny_cfg(DATASETS__TEST=("a", "b"))
    by_task = {"bbox": {"AP": 1.0}}
    assert by_dataset(one, by_task) == {"a": by_task}
    assert by_dataset(two, {"a": by_task, "b": by_task}) == {"a": by_task, "b": by_task}


def test_write_results_writes_valid_json(tmp_path):
    metrics = {"AP": 12.5, "APl": math.nan, "AP-star": torch.tensor(3.0)}
    path = write_results(str(tmp_path), {"a": {"bbox": metrics, "segm": {"AP": 0}}, "b": {}})
    bbox = {"AP": 12.5, "APl": None, "AP-star": 3.0}
    assert json.loads(open(path).read()) == {"a": {"bbox": bbox, "segm": {"AP": 0.0}}, "b": {}}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_results_table_has_boxes_and_masks():
    box = {"AP": 61.23, "AP50": 80.0, "AP75": 70.0, "APs": 1.0, "AP-star": 50.0, "AP-disc": 72.46}
    mask = {"AP": 60.0, "AP50": 79.0, "AP75": math.nan, "AP-star": 45.0, "AP-disc": 75.0}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results_table({"mine": {"bbox": box, "segm": mask}}).splitlines()
        if line and "---" not in line
    ]
    assert rows == [
        ["data set"]
        + [f"{what} {ap}" for what in ("box", "mask") for ap in ("AP", "AP50", "AP75")],
        ["mine", "61.2", "80.0", "70.0", "60.0", "79.0", "-"],
        ["data set", "class", "box AP", "mask AP"],
        ["mine", "star", "50.0", "45.0"],
        ["mine", "disc", "72.5", "75.0"],
    ]


def test_results_table_of_a_box_detector_has_no_masks():
    table = results_table({"a": {"bbox": {"AP": 1.0}}, "b": {"bbox": {"AP": 2.0}}})
    assert "mask" not in table and "class" not in table
    assert [line.split("|")[1:3] for line in table.splitlines()[2:]] == [
        [" a          ", "      1.0 "],
        [" b          ", "      2.0 "],
    ]
