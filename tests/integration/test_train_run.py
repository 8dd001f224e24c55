"""One run from images to results, and what can be done with what it leaves."""

import argparse
import json
import math
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import logger as detectron2_logger

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.checkpoint.inference_only import to_inference_only
from queryinst.checkpoint.meta import as_inference_only
from queryinst.data.registration import register_from_args
from queryinst.engine import Trainer, main, setup_cfg
from queryinst.engine.train_net import _cfg_of

TEST = ("DATASETS.TEST", "('tiny_val',)")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_run):
    """Four steps, checkpoints after each, evaluations after the second and the last."""
    folder = tmp_path_factory.mktemp("trained")
    opts = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2)
    with tiny_run(folder) as make:
        results = main(make(*TEST, *opts, "TEST.EVAL_PERIOD", 2))
    return argparse.Namespace(output=folder / "output", results=results)


@pytest.fixture
def evaluate(make_args, trained, tmp_path):
    """A function that evaluates the trained model, and gives the results and predictions."""

    def run(*opts, weights="model_final.pth", data_set="tiny_val"):
        args = make_args(*TEST, "MODEL.WEIGHTS", trained.output / weights, *opts, eval_only=True)
        results = main(args)
        return results, predictions(tmp_path / "output", data_set)

    return run


def predictions(output, data_set="tiny_val"):
    path = output / "inference" / data_set / "coco_instances_results.json"
    return json.loads(path.read_text())


def test_main_writes_the_files_of_a_run(trained):
    names = {path.name for path in trained.output.iterdir()}
    expected = {"config.yaml", "last_checkpoint", "log.txt", "metrics.json", "results.json"}
    expected |= {"model_best.json", "model_best.pth", "model_final.pth", "inference"}
    assert expected <= names
    assert {name for name in names if re.fullmatch(r"model_\d+.pth", name)} == {
        "model_0000002.pth",
        "model_0000003.pth",
    }
    assert (trained.output / "last_checkpoint").read_text() == "model_final.pth"


def test_main_writes_the_results_that_it_returns(trained):
    written = json.loads((trained.output / "results.json").read_text())
    assert set(written) == {"tiny_val"} and set(written["tiny_val"]) == {"bbox", "segm"}
    for task, metrics in trained.results["tiny_val"].items():
        assert {"AP", "AP50", "AP75", "AP-star", "AP-ellipse"} <= set(metrics)
        for name, value in metrics.items():
            assert written["tiny_val"][task][name] == (None if math.isnan(value) else value)


def test_main_writes_predictions_for_every_image(trained):
    predicted = predictions(trained.output)
    assert {row["image_id"] for row in predicted} == {1, 2, 3, 4}
    assert all(row["segmentation"]["size"] == [128, 128] for row in predicted)
    assert {row["category_id"] for row in predicted} <= {1, 2, 3}


def test_main_prints_losses_summed_over_the_stages(trained):
    log = (trained.output / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "iter: " in line]
    printed = {name: float(value) for name, value in re.findall(r"(\w*loss\w*): ([\d.]+)", line)}
    assert set(printed) == {"total_loss", "loss_cls", "loss_box_l1", "loss_box_giou", "loss_mask"}
    assert "iter: 4/4" in line and "eta: 0:00:00" in line and "lr: " in line
    total = printed.pop("total_loss")
    assert sum(printed.values()) == pytest.approx(total, rel=0.2)  # medians do not add up exactly


def test_main_writes_metrics_of_each_stage_and_evaluation(trained):
    lines = (trained.output / "metrics.json").read_text().splitlines()
    rows = {row["iteration"]: row for row in map(json.loads, lines)}
    assert {f"loss_mask_stage{stage}" for stage in (0, 1)} <= set(rows[3])
    assert {"total_loss", "lr", "eta_seconds"} <= set(rows[3])
    assert "segm/AP" in rows[1] and "bbox/AP-star" in rows[4]


def test_main_logs_the_table_last(trained):
    end = (trained.output / "log.txt").read_text().split("Results, in full in ")[-1]
    assert end.startswith(f"{trained.output}/results.json:\n| data set")
    assert "| tiny_val   | triangle |" in end and len(end.splitlines()) == 10


def test_main_writes_a_last_checkpoint_to_resume_and_best_weights(trained):
    final = torch.load(trained.output / "model_final.pth")
    assert final["iteration"] == 3 and {"optimizer"} <= set(final["trainer"]["_trainer"])
    best = torch.load(trained.output / "model_best.pth")
    assert "trainer" not in best and best["model"].keys() == final["model"].keys()
    assert best["meta"] == final["meta"]


def test_main_writes_a_configuration_that_runs_again(trained):
    cfg = setup_cfg(str(trained.output / "config.yaml"))
    assert cfg.SOLVER.MAX_ITER == 4 and cfg.MODEL.QUERYINST.NUM_QUERIES == 4


def test_main_evaluates_as_the_training_did_at_its_end(trained, evaluate):
    results, predicted = evaluate()
    expected = predictions(trained.output)
    assert len(predicted) == len(expected) > 0
    for row, wanted in zip(predicted, expected):
        assert row["image_id"] == wanted["image_id"]
        assert row["bbox"] == pytest.approx(wanted["bbox"], abs=1e-3)
        assert row["score"] == pytest.approx(wanted["score"], abs=1e-5)
    assert results["tiny_val"]["segm"]["AP"] == pytest.approx(
        trained.results["tiny_val"]["segm"]["AP"]
    )


def test_main_needs_only_a_config_file_and_options(make_args, trained, tmp_path):
    args = make_args(*TEST, "MODEL.WEIGHTS", trained.output / "model_best.pth")
    minimal = argparse.Namespace(config_file=args.config_file, opts=args.opts, eval_only=True)
    assert set(main(minimal)["tiny_val"]) == {"bbox", "segm"}
    results = json.loads((tmp_path / "output" / "results.json").read_text())
    assert results["tiny_val"]["segm"]["AP"] is not None


def test_main_evaluates_the_last_checkpoint_with_resume(make_args, trained):
    opts = (*TEST, "OUTPUT_DIR", trained.output, "MODEL.WEIGHTS", "/gone.pth")
    results = main(make_args(*opts, eval_only=True, resume=True))
    assert results.keys() == trained.results.keys()


def test_main_evaluates_a_box_detector_by_its_boxes(evaluate, tmp_path):
    results, predicted = evaluate("MODEL.MASK_ON", "False")
    assert set(results["tiny_val"]) == {"bbox"} and "segmentation" not in predicted[0]
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "MODEL.MASK_ON is False" in log and "mask AP" not in log.split("Results, in")[-1]


@pytest.fixture(scope="module")
def inference_only_file(trained):
    final = torch.load(trained.output / "model_final.pth")
    small = {"model": to_inference_only(final["model"]), "meta": as_inference_only(final["meta"])}
    torch.save(small, trained.output / "small.pth")
    return "small.pth"


def test_main_evaluates_an_inference_only_file(evaluate, inference_only_file, tmp_path):
    _, expected = evaluate()
    _, predicted = evaluate(weights=inference_only_file)
    assert predicted == expected
    log = (tmp_path / "output" / "log.txt").read_text()
    (said,) = [line for line in log.splitlines() if "is inference-only" in line]
    assert said.endswith("it has only the last mask head"), "built so, nothing removed"


def test_main_refuses_to_train_from_an_inference_only_file(
    make_args, trained, inference_only_file, tmp_path
):
    with pytest.raises(
        ValueError, match="small.pth is inference-only: .* training needs every one"
    ):
        main(make_args("MODEL.WEIGHTS", trained.output / inference_only_file))
    assert not list((tmp_path / "output").glob("*.pth"))


def test_main_tells_two_test_sets_apart(evaluate):
    results, predicted = evaluate(
        "DATASETS.TEST", "('tiny_val','tiny_train')", data_set="tiny_train"
    )
    assert set(results) == {"tiny_val", "tiny_train"} and set(results["tiny_train"]["bbox"]) > {
        "AP"
    }
    assert {row["image_id"] for row in predicted} == {1, 2, 3, 4, 5, 6}


def test_main_returns_nan_without_a_detection(evaluate, tmp_path):
    results, predicted = evaluate("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    assert predicted == [] and math.isnan(results["tiny_val"]["segm"]["AP"])
    written = json.loads((tmp_path / "output" / "results.json").read_text())
    assert written["tiny_val"]["segm"]["AP"] is None


def test_main_evaluates_on_the_cpu_without_a_gpu(evaluate, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(detectron2_logger, "_LOG_COUNTER", type(detectron2_logger._LOG_COUNTER)())
    evaluate("MODEL.DEVICE", "cuda")
    lines = (tmp_path / "output" / "log.txt").read_text().splitlines()
    said = "torch finds no GPU for MODEL.DEVICE 'cuda'; using the CPU"
    assert len([line for line in lines if "WARNING" in line and said in line]) == 1


def test_main_evaluates_from_a_checkpoint_alone(make_args, trained, tmp_path):
    """Neither class count, queries nor sizes are named: the checkpoint has them."""
    output = tmp_path / "elsewhere"
    weights = trained.output / "model_final.pth"
    args = make_args("MODEL.WEIGHTS", weights, "OUTPUT_DIR", output, eval_only=True, config_file="")
    assert main(args).keys() == trained.results.keys()
    assert predictions(output) and not (tmp_path / "output").exists()
    cfg = _cfg_of(make_args("MODEL.WEIGHTS", weights, eval_only=True, config_file=""))
    assert cfg.OUTPUT_DIR == "./output"  # not the training's, whose files would be replaced
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 4 and cfg.DATASETS.TEST == ("tiny_val",)
    again = make_args("MODEL.WEIGHTS", weights, *TEST, "INPUT.MIN_SIZE_TEST", 96, eval_only=True)
    again.config_file = ""
    assert _cfg_of(again).INPUT.MIN_SIZE_TEST == 96


@pytest.fixture
def changed_val(tiny_data):
    """A function that registers tiny_val with changes, as `tiny_changed`."""

    def register(change):
        _, path, root = next(x for x in tiny_data.dataset_args if x[0] == "tiny_val")
        with open(path) as file:
            content = json.load(file)
        change(content)
        changed = path.replace("val.json", "changed.json")
        with open(changed, "w") as file:
            json.dump(content, file)
        register_from_args([["tiny_changed", changed, root]])
        return "tiny_changed"

    yield register
    DatasetCatalog.remove("tiny_changed")
    MetadataCatalog.remove("tiny_changed")


def give_other_order(content):
    """Give the categories other ids, and so the classes another order."""
    ids = sorted(category["id"] for category in content["categories"])
    other = dict(zip(ids, [*ids[1:], ids[0]]))
    for category in content["categories"]:
        category["id"] = other[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = other[annotation["category_id"]]


def named(rows, data_set):
    with open(MetadataCatalog.get(data_set).json_file) as file:
        names = {x["id"]: x["name"] for x in json.load(file)["categories"]}
    return [(row["image_id"], names[row["category_id"]], row["score"]) for row in rows]


def test_main_evaluates_classes_by_name_where_the_data_set_has_another_order(
    evaluate, changed_val, tmp_path
):
    log = tmp_path / "output" / "log.txt"
    expected_results, expected = evaluate()
    assert "another order" not in log.read_text()
    name = changed_val(give_other_order)
    results, predicted = evaluate("DATASETS.TEST", f"('{name}',)", data_set=name)
    assert named(predicted, name) == named(expected, "tiny_val")
    assert log.read_text().count("the same names in another order") == 1
    first, second = expected_results["tiny_val"]["segm"], results[name]["segm"]
    assert first.keys() == second.keys()
    assert all(first[key] == pytest.approx(second[key], nan_ok=True) for key in first)


@pytest.mark.parametrize("as_id", ["image {}".format, lambda number: number + 2**64])
def test_main_evaluates_images_whose_ids_are_no_small_integers(evaluate, changed_val, as_id):
    def change(content):
        for image in content["images"]:
            image["id"] = as_id(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = as_id(annotation["image_id"])

    expected_results, expected = evaluate()
    name = changed_val(change)
    results, predicted = evaluate("DATASETS.TEST", f"('{name}',)", data_set=name)
    assert results[name]["segm"] == pytest.approx(expected_results["tiny_val"]["segm"], nan_ok=True)
    assert [row["image_id"] for row in predicted] == [as_id(row["image_id"]) for row in expected]


def test_test_warns_once_of_scores_that_are_not_numbers(make_args, trained, caplog):
    args = make_args(*TEST, "MODEL.WEIGHTS", trained.output / "model_final.pth")
    cfg = setup_cfg(args.config_file, args.opts)
    model = Trainer.build_model(cfg)
    QueryInstCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    with torch.no_grad():
        model.backbone.fpn_output2.weight.fill_(torch.nan)
    Trainer.test(cfg, model.eval())
    lines = [x.getMessage() for x in caplog.records if "not numbers (NaN)" in x.getMessage()]
    assert len(lines) == 1 and "for 4 images" in lines[0]


def test_resume_or_load_names_the_classes_that_the_training_learns(make_args, trained):
    weights = trained.output / "model_final.pth"
    args = make_args("MODEL.WEIGHTS", weights)
    trainer = Trainer(setup_cfg(args.config_file, args.opts))
    trainer.checkpointer.load(str(weights))
    names = tuple(MetadataCatalog.get("tiny_train").thing_classes)
    assert trainer.model.thing_classes == names and len(names) == 3
    trainer.model.thing_classes = ("of", "another", "set")
    trainer.resume_or_load(resume=False)
    assert trainer.model.thing_classes == names
