"""Class names of a checkpoint and of the data set that it is evaluated on."""

import logging

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from torch import nn

from queryinst.engine import class_order, main
from queryinst.engine.class_order import (
    ByClassName,
    by_class_name,
    class_names_of,
    warn_of_other_classes,
)
from queryinst.testing import tiny_cfg

NAMES = ["circle", "square", "star"]
DATA_SET = "test_class_order"


class NoEvaluator(DatasetEvaluator):
    pass


class Recorder:
    """An evaluator that keeps what it gets."""

    def reset(self):
        self.outputs = []

    def process(self, inputs, outputs):
        self.outputs += outputs

    def evaluate(self):
        return [self.names(x["instances"]) for x in self.outputs]

    def names(self, instances):
        names = MetadataCatalog.get(DATA_SET).thing_classes
        return [names[number] for number in instances.pred_classes]


@pytest.fixture
def data_set():
    def register(names):
        MetadataCatalog.get(DATA_SET).set(thing_classes=names)

    yield register
    MetadataCatalog.remove(DATA_SET)


def prediction(classes):
    instances = Instances((8, 8))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.arange(float(len(classes)))
    instances.pred_boxes = Boxes(torch.zeros(len(classes), 4))
    return {"instances": instances}


def evaluate(model_names, classes):
    evaluator = ByClassName(Recorder(), DATA_SET, model_names)
    evaluator.reset()
    output = prediction(classes)
    evaluator.process([{}], [output])
    assert output["instances"].pred_classes.tolist() == classes  # the model's own stay
    return evaluator.evaluate()[0]


@pytest.mark.parametrize(
    "order",
    [["circle", "square", "star"], ["star", "circle", "square"], ["star", "square", "circle"]],
)
def test_by_class_name_gives_the_data_sets_numbers(data_set, caplog, order):
    data_set(order)
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        found = evaluate(NAMES, [0, 1, 2, 2, 0])
    assert found == ["circle", "square", "star", "star", "circle"]
    assert len(caplog.records) == (order != NAMES)
    if order != NAMES:
        line = caplog.records[0].getMessage()
        assert "class 0 is 'circle' in the checkpoint and 'star' in the data set" in line
        assert "the same names in another order" in line


@pytest.mark.parametrize("names", [["disc", "square", "star"], ["star", "disc", "circle"]])
def test_by_class_name_warns_of_other_names_and_keeps_the_numbers(data_set, caplog, names):
    data_set(names)
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        assert evaluate(NAMES, [0, 2]) == [names[0], names[2]]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"class 0 is 'circle' in the checkpoint and {names[0]!r} in the data set" in line
    assert "compared by their numbers" in line


@pytest.mark.parametrize("model_names", [(), NAMES])
def test_by_class_name_says_nothing_where_names_are_unknown_or_the_same(
    data_set, caplog, model_names
):
    data_set(list(NAMES))
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        assert evaluate(model_names, [2, 1]) == ["star", "square"]
    assert caplog.records == []


def test_by_class_name_passes_an_image_without_detections(data_set):
    data_set(NAMES[::-1])
    assert evaluate(NAMES, []) == []


def test_by_class_name_takes_what_default_trainer_takes():
    cfg = tiny_cfg(DATASETS__TEST=("a", "b"))
    model, one, two = nn.Identity(), NoEvaluator(), NoEvaluator()
    assert by_class_name(cfg, model, None, None) is None  # no names are known
    assert by_class_name(cfg, model, [one, two], None) == [one, two]
    model.thing_classes = ("x", "y")
    built = by_class_name(cfg, model, None, lambda cfg, name: {"a": one, "b": two}[name])
    assert [x._evaluator for x in built] == [one, two]
    assert [x._dataset_name for x in built] == ["a", "b"]
    given = by_class_name(cfg, model, [two, one], None)
    assert [x._evaluator for x in given] == [two, one]
    single = by_class_name(tiny_cfg(DATASETS__TEST=("a",)), model, one, None)
    assert [x._evaluator for x in single] == [one]
    with pytest.raises(ValueError):
        by_class_name(cfg, model, [one], None)


def test_class_names_of_a_wrapped_model():
    model = nn.Identity()
    assert class_names_of(model) == ()
    model.thing_classes = ("a", "b")
    wrapped = nn.Module()
    wrapped.module = model
    assert class_names_of(model) == class_names_of(wrapped) == ("a", "b")


@pytest.mark.parametrize(
    "known, names, said",
    [
        (("a", "b"), ("a", "b"), ""),
        ((), ("a", "b"), ""),
        (("a", "b", "c"), ("a", "b"), ""),  # re-initialized, which the checkpointer says
        (
            ("a", "b"),
            ("a", "c"),
            "class 1 is 'b' in the weights and 'c' in the data, and 1 of 2 na",
        ),
        (
            ("a", "b"),
            ("b", "a"),
            "class 0 is 'a' in the weights and 'b' in the data: the same name",
        ),
    ],
)
def test_warn_of_other_classes_names_both(monkeypatch, known, names, said):
    lines = []
    monkeypatch.setattr(class_order.logger, "warning", lines.append)
    warn_of_other_classes(known, names)
    assert len(lines) == bool(said) and "".join(lines).startswith(said)


def test_fine_tuning_from_other_classes_of_the_same_number_is_a_warning(make_args, tmp_path):
    main(make_args())
    output = tmp_path / "output"
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    checkpoint["meta"]["thing_classes"] = ["ellipse", "square", "star"]
    torch.save(checkpoint, tmp_path / "other.pth")
    main(make_args("MODEL.WEIGHTS", tmp_path / "other.pth"))
    said = "class 1 is 'square' in the weights and 'triangle' in the data, and 1 of 3 names differ"
    assert (output / "log.txt").read_text().count(said) == 1
    again = torch.load(output / "model_final.pth", weights_only=True)["meta"]
    assert again["thing_classes"] == ["ellipse", "triangle", "star"]
