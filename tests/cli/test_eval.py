import json
from argparse import Namespace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from queryinst import load
from queryinst.engine import Trainer
from queryinst.engine import main as train_net
from queryinst.predict.evaluation import EvaluatedModel, evaluation_cfg
from queryinst_cli import main
from queryinst_cli.eval import dataset_of

pytestmark = pytest.mark.usefixtures("untouched_logging")


def results_of(folder):
    (results,) = json.loads((folder / "results.json").read_text()).values()
    return results


@pytest.fixture
def evaluate(tiny_data, tmp_path):
    """Runs `queryinst eval`; the status and the results."""
    shapes = tiny_data.root / "shapes"
    data = f"{shapes / 'annotations' / 'val.json'}:{shapes / 'val'}"

    def run(model, *words):
        words = ["--output", tmp_path / "out", "--device", "cpu", *words]
        status = main(["eval", *map(str, (data, "--model", model, *words))])
        return status, results_of(tmp_path / "out") if status == 0 else None

    return run


def test_eval_has_the_results_of_train_net(tmp_path, tiny_data, model_file, evaluate):
    cfg = load(model_file, device="cpu").backend.cfg
    (tmp_path / "config.yaml").write_text(cfg.dump())
    opts = ["MODEL.WEIGHTS", model_file, "DATASETS.TEST", "('tiny_val',)", "OUTPUT_DIR", "expected"]
    opts[-1] = str(tmp_path / "expected")
    train_net(Namespace(config_file=str(tmp_path / "config.yaml"), opts=opts, eval_only=True))
    expected = results_of(tmp_path / "expected")
    status, results = evaluate(model_file)
    assert status == 0 and results == expected and results["segm"]["AP"] >= 0
    predictions = [
        [(x["image_id"], x["category_id"], x["score"]) for x in json.loads(path.read_text())]
        for folder in ("out", "expected")
        for path in (tmp_path / folder).glob("inference/*/coco_instances_results.json")
    ]
    assert len(predictions) == 2 and predictions[0] == predictions[1] != []


def test_eval_takes_exported_files(model_file, exported_file, evaluate):
    _, expected = evaluate(model_file)
    status, results = evaluate(exported_file)
    assert status == 0
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(expected[task]["AP"], abs=0.1)


def test_evaluated_model_gives_what_the_model_finds(tiny_data, model_file):
    model = load(model_file, device="cpu")
    cfg = evaluation_cfg(model_file, "tiny_val", "output", num_classes=3, has_masks=True, limit=100)
    record, *_ = DatasetCatalog.get("tiny_val")
    (inputs,) = next(iter(Trainer.build_test_loader(cfg, "tiny_val")))
    assert inputs["file_name"] == record["file_name"]
    (output,) = EvaluatedModel(model, score=0.3)([inputs])
    expected = model.predict(record["file_name"], score=0.3)
    instances = output["instances"]
    assert instances.scores.tolist() == expected.scores.tolist() != []
    assert instances.pred_boxes.tensor.tolist() == expected.boxes.tolist()
    assert instances.pred_masks.numpy().tolist() == expected.masks.tolist()


def test_eval_says_what_is_missing(tmp_path, model_file, capfd, evaluate):
    assert main(["eval", str(tmp_path), "--model", model_file]) == 1
    assert "no annotations are recognised in" in capfd.readouterr().err
    assert evaluate(model_file, "--opts", "MODEL.NONE", "1")[0] == 1
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith("queryinst eval: error: ") and "MODEL.NONE" in err[-1]


def test_dataset_of_names_the_folder_and_finds_what_is_registered(tmp_path):
    data = tmp_path / "named so"
    files = str(data / "annotations" / "instances_val.json"), str(data / "val")
    assert dataset_of(*files) == ("named so_val", True)
    DatasetCatalog.register("named so_val", list)
    try:
        assert dataset_of(*files) == ("named so_val_2", True)
        MetadataCatalog.get("named so_val").set(json_file=files[0], image_root=f"{data}/x/../val")
        assert dataset_of(*files) == ("named so_val", False)
    finally:
        DatasetCatalog.remove("named so_val")
        MetadataCatalog.remove("named so_val")
