"""Copy-paste: pixels, masks and boxes agree, hidden objects go, and inputs stay as they are."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from queryinst.config_limits import check_limits
from queryinst.data import copy_paste as module
from queryinst.data.copy_paste import copy_paste
from queryinst.data.train_loader import build_train_loader
from queryinst.testing import random_batch, tiny_cfg


def image_of(value: int, *rectangles, height: int = 20, width: int = 30) -> dict:
    """One color, with objects of the colors value + 1, value + 2, ... and those classes."""
    pixels = torch.full((3, height, width), value, dtype=torch.uint8)
    masks = torch.zeros(len(rectangles), height, width, dtype=torch.bool)
    for index, (x0, y0, x1, y1) in enumerate(rectangles):
        masks[index, y0:y1, x0:x1] = True
        pixels[:, y0:y1, x0:x1] = value + index + 1
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(rectangles).reshape(-1, 4).float())
    instances.gt_classes = torch.arange(len(rectangles)) + value + 1
    instances.gt_masks = BitMasks(masks)
    return {"image": pixels, "instances": instances, "image_id": value}


@pytest.fixture
def all_chosen(monkeypatch):
    monkeypatch.setattr(module, "CHOICE", 1.0)


def check(result: dict) -> None:
    """Each object is where its color is, and its box is tight around it."""
    instances = result["instances"]
    for index, color in enumerate(instances.gt_classes.tolist()):
        mask = result["image"][0] == color
        assert torch.equal(instances.gt_masks.tensor[index], mask)
        assert torch.equal(
            instances.gt_boxes.tensor[index], BitMasks(mask[None]).get_bounding_boxes().tensor[0]
        )


def test_copy_paste_keeps_pixels_masks_and_boxes_together(all_chosen):
    image = image_of(10, (0, 0, 8, 8), (20, 10, 29, 19))
    other = image_of(50, (3, 3, 9, 7), (10, 10, 14, 20), height=24, width=24)
    num_hidden = 0
    for seed in range(40):
        random.seed(seed)
        result = copy_paste(image, other)
        check(result)
        classes = result["instances"].gt_classes.tolist()
        assert {11, 12} & set(classes) and 52 in classes  # the last is on top
        num_hidden += len(classes) < 4 or bool((result["image"][0, :8, :8] != 11).any())
        assert result["image_id"] == 10
    assert 0 < num_hidden < 40
    assert (
        len(image["instances"]) == 2
        and (image["image"] == image_of(10, (0, 0, 8, 8), (20, 10, 29, 19))["image"]).all()
    )


def test_copy_paste_removes_what_is_almost_hidden(all_chosen):
    image = image_of(1, (4, 4, 9, 9))
    other = image_of(5, (0, 0, 30, 18))
    for seed in range(10):
        random.seed(seed)
        assert copy_paste(image, other)["instances"].gt_classes.tolist() == [6]


def test_copy_paste_leaves_out_what_does_not_fit(all_chosen):
    image = image_of(1, (4, 4, 9, 9))
    result = copy_paste(image, image_of(5, (0, 0, 31, 5), height=50, width=50))
    assert torch.equal(result["image"], image["image"])
    assert result["instances"].gt_classes.tolist() == [2]


def test_copy_paste_keeps_the_boxes_of_objects_that_nothing_hides(all_chosen):
    image = image_of(1, (4, 4, 9, 9))
    image["instances"].gt_boxes.tensor += 0.25
    result = copy_paste(image, image_of(5))
    assert result["instances"].gt_boxes.tensor.tolist() == [[4.25, 4.25, 9.25, 9.25]]


def test_copy_paste_puts_objects_into_an_image_without_any(all_chosen):
    result = copy_paste(image_of(1), image_of(5, (0, 0, 4, 4)))
    check(result)
    assert result["instances"].gt_classes.tolist() == [6]


def test_copy_paste_chooses_about_half_of_the_objects():
    image, other = image_of(1), image_of(5, (0, 0, 2, 2), (5, 5, 7, 7))
    random.seed(0)
    num = sum(len(copy_paste(image, other)["instances"]) for _ in range(200))
    assert 160 < num < 240


@pytest.mark.parametrize("probability, expected", [(0.0, 0), (0.5, 32), (1.0, 64)])
def test_build_train_loader_pastes_with_this_probability(monkeypatch, probability, expected):
    dicts = [{"image_id": 0, "width": 96, "height": 64, "annotations": [{"category_id": 0}]}]
    DatasetCatalog.register("copy_paste_train", lambda: dicts)
    try:
        cfg = tiny_cfg(DATASETS__TRAIN=("copy_paste_train",), SEED=0, INPUT__COPY_PASTE=probability)
        loader = build_train_loader(cfg, lambda _: random_batch((2,))[0])
        batches = iter(loader)
        plain = random_batch((2,))[0]["image"]
        images = [image["image"] for _ in range(4) for image in next(batches)]
        changed = sum(not torch.equal(image, plain) for image in images)
    finally:
        DatasetCatalog.remove("copy_paste_train")
    share = expected * 0.75  # a quarter of the choices takes no object
    assert len(images) == 64 and abs(changed - share) <= (12 if expected else 0)


def test_copy_paste_leaves_out_objects_of_empty_masks(all_chosen):
    other = image_of(5, (0, 0, 4, 4), (6, 6, 9, 9))
    other["instances"].gt_masks.tensor[0] = False
    assert copy_paste(image_of(1), other)["instances"].gt_classes.tolist() == [7]


def without_instances(image):
    del image["instances"]


def with_polygons(image):
    image["instances"].gt_masks = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 4])]])


def with_keypoints(image):
    image["instances"].gt_keypoints = torch.zeros(1, 3)


@pytest.mark.parametrize("change", [without_instances, with_polygons, with_keypoints])
def test_copy_paste_refuses_what_a_mapper_of_ones_own_gives_in_one_line(change):
    other = image_of(5, (0, 0, 4, 4))
    change(other)
    with pytest.raises(ValueError, match="INPUT.COPY_PASTE needs .* the mapper gave .*set it to 0"):
        copy_paste(image_of(1), other)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"MODEL__MASK_ON": False}, "INPUT.COPY_PASTE 0.5 .*MODEL.MASK_ON True"),
        ({"DATALOADER__SAMPLER_TRAIN": "RandomSubsetTrainingSampler"}, "COPY_PASTE 0.5 .*SAMPLER_"),
    ],
)
def test_check_limits_refuses_to_paste_what_is_not_there(overrides, message):
    check_limits(tiny_cfg(**overrides))
    with pytest.raises(ValueError, match=message):
        check_limits(tiny_cfg(INPUT__COPY_PASTE=0.5, **overrides))


def test_build_train_loader_refuses_to_paste_from_a_data_set_that_is_no_list():
    DatasetCatalog.register("copy_paste_no_list", lambda: DatasetFromList([{"width": 4}]))
    try:
        cfg = tiny_cfg(DATASETS__TRAIN=("copy_paste_no_list",), INPUT__COPY_PASTE=0.5)
        with pytest.raises(ValueError, match="COPY_PASTE 0.5 needs .* not a DatasetFromList"):
            build_train_loader(cfg, dict)
    finally:
        DatasetCatalog.remove("copy_paste_no_list")
