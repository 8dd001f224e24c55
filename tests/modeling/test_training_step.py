"""One step of training: which parameters learn, and the batches that are out of the ordinary."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.modeling import QueryInst
from queryinst.testing import random_batch, tiny_cfg


def make(**overrides) -> nn.Module:
    torch.manual_seed(0)
    return QueryInst(tiny_cfg(**overrides)).train()


def step(model: nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    """Losses, after their backward pass."""
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def assert_finite(model: nn.Module, losses: dict) -> None:
    assert all(loss.isfinite() for loss in losses.values()), losses
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is not in the graph"
            assert parameter.grad.isfinite().all(), name


FROM_SCRATCH = {"MODEL__BACKBONE__FREEZE_AT": 0, "MODEL__BACKBONE__NORM_EVAL": False}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        FROM_SCRATCH,
        {"MODEL__QUERYINST__NUM_CLS_FCS": 0, "MODEL__QUERYINST__NUM_REG_FCS": 0},
        {"MODEL__ROI_MASK_HEAD__NORM": "GN", "MODEL__ROI_MASK_HEAD__CONV_DIM": 32},
        {"MODEL__MASK_ON": False},
    ],
)
def test_training_step_gives_trained_parameters_a_gradient_and_no_frozen_one(overrides):
    model = make(**overrides)
    # queries of all sizes, so that each level of the pyramid has RoIs; they hardly move, since a
    # mask target that is empty teaches nothing
    sizes = torch.tensor([0.3, 0.8, 2.0, 4.0, 8.0, 1.0])
    model.initial_queries.boxes_cxcywh_norm.data[:, 2:] = sizes[:, None]
    for stage in model.cascade.stages:
        nn.init.normal_(stage.box_deltas.weight, std=1e-3)
    assert_finite(model, step(model, random_batch((2, 3))))
    params = dict(model.named_parameters())
    learned = {name for name, p in params.items() if p.grad is not None and p.grad.any()}
    frozen = {name for name, p in params.items() if not p.requires_grad}
    assert {name for name, p in params.items() if p.grad is None} == frozen
    assert set(params) - learned - frozen == set()
    first = ("backbone.bottom_up.stem.", "backbone.bottom_up.res2.")
    freezes = overrides is not FROM_SCRATCH
    assert frozen == {name for name in params if freezes and name.startswith(first)}


@pytest.mark.parametrize("nums", [(0,), (0, 0)])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"MODEL__MASK_ON": False}, {"MODEL__ROI_MASK_HEAD__NORM": ""}, FROM_SCRATCH],
)
def test_training_step_without_instances_trains_the_class_scores(nums, overrides):
    model = make(**overrides)
    losses = step(model, random_batch(nums))
    assert_finite(model, losses)
    # the initial scores are the prior, 18 an image: 2 x 0.75 x 0.01^2 x -log(0.99) each
    prior = 2 * 0.75 * 0.01**2 * -math.log(0.99) * 18 * len(nums)
    for name, loss in losses.items():
        if name.startswith("loss_cls"):
            assert prior / 100 < loss.item() < prior * 1e4, "not over mmdet's epsilon"
            assert loss.item() < 10
        else:
            assert loss.item() == 0
    assert all(stage.cls_logits.weight.grad.any() for stage in model.cascade.stages)
    assert not any(stage.box_deltas.weight.grad.any() for stage in model.cascade.stages)


@pytest.mark.parametrize(
    "overrides, nums",
    [
        ({}, (1, 0)),
        ({"MODEL__QUERYINST__NUM_QUERIES": 2}, (5, 3)),  # more instances than queries
        ({"MODEL__QUERYINST__NUM_QUERIES": 1}, (3,)),
        ({"MODEL__QUERYINST__NUM_QUERIES": 1}, (0, 1)),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 1}, (2, 1)),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 1, "MODEL__QUERYINST__NUM_QUERIES": 1}, (1,)),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 300}, (2,)),
        ({"MODEL__QUERYINST__NUM_STAGES": 1}, (2,)),
        ({"MODEL__QUERYINST__NUM_STAGES": 4}, (2,)),
        ({"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}, (2, 1)),
        ({"MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 7}, (2,)),
        ({"MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 3}, (2,)),
        ({"MODEL__ROI_MASK_HEAD__NUM_CONV": 0}, (2,)),
        ({"MODEL__ROI_MASK_HEAD__NORM": "naiveSyncBN"}, (2,)),
        ({"MODEL__QUERYINST__DROPOUT": 0.3}, (2,)),
        ({"MODEL__FPN__OUT_CHANNELS": 24, "MODEL__QUERYINST__EMBED_DIM": 24}, (2,)),
    ],
)
def test_training_step_of_any_sizes_that_the_keys_allow(overrides, nums):
    model = make(**overrides)
    num_classes = overrides.get("MODEL__ROI_HEADS__NUM_CLASSES", 3)
    losses = step(model, random_batch(nums, 64, 64, num_classes))
    num_stages = overrides.get("MODEL__QUERYINST__NUM_STAGES", 2)
    kinds = ("cls", "box_l1", "box_giou", "mask")
    assert set(losses) == {f"loss_{k}_stage{s}" for k in kinds for s in range(num_stages)}
    assert_finite(model, losses)
    assert all(loss > 0 for loss in losses.values())


def make_instances(boxes: list, size=(64, 64)) -> Instances:
    height, width = size
    bits = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(bits, boxes):
        mask[max(0, y0) : y1, max(0, x0) : x1] = True
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    instances.gt_masks = BitMasks(bits)
    return instances


@pytest.mark.parametrize(
    "box",
    [
        (10, 20, 11, 21),  # one pixel
        (63, 63, 64, 64),
        (5, 5, 5, 9),  # no area, and no pixel
        (-40, -40, 20, 20),  # reaches out of the image
        (70, 70, 90, 90),  # lies outside
    ],
)
def test_training_step_with_instances_of_strange_size_and_place(box):
    model = make()
    batch = random_batch((0, 2), 64, 64)
    batch[0]["instances"] = make_instances([box])
    losses = step(model, batch)
    assert_finite(model, losses)
    assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize(
    "cxcywh",
    [
        (4.0, -3.0, 0.5, 0.5),  # far outside
        (0.5, 0.5, 0.0, 0.0),  # a point
        (0.5, 0.5, -0.2, -0.2),  # upside down
        (0.5, 0.5, 50.0, 50.0),
        (0.5, 0.5, 0.001, 0.001),
    ],
)
def test_training_step_with_queries_of_strange_size_and_place(cxcywh):
    model = make()
    model.initial_queries.boxes_cxcywh_norm.data[:] = torch.tensor(cxcywh)
    assert_finite(model, step(model, random_batch((2, 1), 64, 64)))


def test_training_step_on_polygons_is_that_on_their_bitmask():
    triangles = [[np.array([4.0, 4, 60, 8, 30, 50])], [np.array([10.0, 40, 30, 30, 50, 62])]]
    batch = random_batch((2,), 64, 64)
    losses = []
    polygons = PolygonMasks(triangles)
    for masks in (polygons, BitMasks.from_polygon_masks(polygons, 64, 64)):
        batch[0]["instances"].gt_masks = masks
        losses.append(step(make(), batch))
    assert losses[0] == losses[1]


def test_training_step_losses_do_not_depend_on_the_place_in_the_batch():
    """Trunk and box stages treat images alone, so only the mask heads' batch norm must go."""
    batch = random_batch((2, 3), 64, 64)
    model = make(MODEL__ROI_MASK_HEAD__NORM="").double()
    there, back = step(model, batch), step(model, batch[::-1])
    assert {k: x.item() for k, x in there.items()} == pytest.approx(
        {k: x.item() for k, x in back.items()}
    )
    alone = [step(model, [x]) for x in batch]
    for name, loss in there.items():  # sums over 5 matches of sums over 2 and over 3
        assert loss.item() == pytest.approx(
            (2 * alone[0][name].item() + 3 * alone[1][name].item()) / 5, rel=1e-6
        )
