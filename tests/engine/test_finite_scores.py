"""NaN in the weights or the image, which a model answers with no detections."""

import copy
import logging
import threading

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.engine.finite_scores import NotNumberWatch, warn_of_not_numbers
from queryinst.engine.predictor import Predictor
from queryinst.testing import random_batch, tiny_cfg


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg()).eval()


@pytest.fixture
def spoilt(model):
    """One bias of the last stage's class layer: that class's scores are NaN, the others not."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.cascade.stages[-1].cls_logits.bias[1] = torch.nan
    return model


@pytest.fixture
def predictor(tmp_path, model):
    QueryInstCheckpointer(model, str(tmp_path), meta=build_meta(tiny_cfg(), None)).save("a")
    return Predictor.from_checkpoint(str(tmp_path / "a.pth"))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@torch.no_grad()
def count(model, inputs):
    with NotNumberWatch(model) as watch:
        model(inputs)
    return watch.num_images()


def test_not_number_watch_counts_the_images(model, spoilt):
    inputs = random_batch((1, 1, 1))
    assert count(model, inputs) == 0
    assert count(spoilt, inputs) == 3
    inputs[1]["image"] = inputs[1]["image"].float()
    inputs[1]["image"][0, 3, 3] = torch.nan
    assert count(model, inputs) == 1


def test_not_number_watch_leaves_no_hook_and_counts_no_other_thread(spoilt):
    inputs = random_batch((1,))
    with NotNumberWatch(spoilt) as watch, torch.no_grad():
        thread = threading.Thread(target=count, args=(spoilt, inputs))
        thread.start()
        thread.join()
    assert watch.num_images() == 0
    assert not spoilt.cascade._forward_hooks


def test_not_number_watch_passes_other_models():
    with NotNumberWatch(torch.nn.Linear(2, 2)) as watch:
        pass
    assert watch.num_images() == 0


def test_warn_of_not_numbers_warns_once_with_the_number(model, spoilt, caplog):
    for each, num_lines in ((model, 0), (spoilt, 1)):
        with NotNumberWatch(each) as watch, torch.no_grad():
            for _ in range(3):
                each(random_batch((1, 1)))
        with caplog.at_level(logging.WARNING, logger="queryinst"):
            warn_of_not_numbers(watch)
        assert len(caplog.records) == num_lines
    assert "(NaN) for 6 images" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictor_refuses_an_image_that_is_not_finite(predictor, image, value):
    image = image.astype(np.float32)
    assert len(predictor(image)["instances"]) > 0
    image[3, 4, 1] = value
    with pytest.raises(ValueError, match="the image has values that are not finite"):
        predictor(image)


def test_predictor_refuses_scores_that_are_not_numbers(predictor, image):
    with torch.no_grad():
        predictor.model.cascade.stages[-1].cls_logits.bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"not numbers \(NaN\) for this image"):
        predictor(image)
    with torch.no_grad():  # all are NaN
        predictor.model.backbone.fpn_output2.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"not numbers \(NaN\) for this image"):
        predictor(image)


def test_predictor_finds_nothing_in_silence_where_scores_are_low(predictor, image):
    predictor.model.score_threshold = 1.0
    assert len(predictor(image)["instances"]) == 0
