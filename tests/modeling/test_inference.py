"""Predictions: which are kept, what masks they cost, and that a batch changes none of them."""

import pytest
import torch
from torch import nn

from queryinst.modeling import QueryInst
from queryinst.testing import random_batch, tiny_cfg

NUM_QUERIES, NUM_CLASSES = 6, 3


def make(**overrides) -> nn.Module:
    """A model in float64 whose scores, boxes and queries differ from each other."""
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg(**overrides)).double().eval()
    for stage in model.cascade.stages:
        nn.init.normal_(stage.cls_logits.weight, std=1.0)
        nn.init.zeros_(stage.cls_logits.bias)
        stage.box_deltas.weight.data *= 0.05  # boxes stay in the image
    boxes = model.initial_queries.boxes_cxcywh_norm.data
    boxes[:, :2] = torch.rand(len(boxes), 2)
    boxes[:, 2:] = 0.2 + torch.rand(len(boxes), 2)
    return model


def assert_equal(actual, expected) -> None:
    assert actual.image_size == expected.image_size
    assert set(actual.get_fields()) == set(expected.get_fields())
    for name, field in expected.get_fields().items():
        ours = actual.get(name)
        if name == "pred_boxes":
            ours, field = ours.tensor, field.tensor
        torch.testing.assert_close(ours, field, rtol=1e-7, atol=1e-7, msg=f"{name} differs")


@torch.no_grad()
def test_inference_of_two_images_is_that_of_each():
    model = make()
    batch = random_batch((0, 0))
    together = model(batch)
    assert len(together[0]["instances"]) == NUM_QUERIES * NUM_CLASSES
    for x, actual in zip(batch, together):
        assert_equal(actual["instances"], model([x])[0]["instances"])
    first, second = (x["instances"].scores for x in together)
    assert not torch.allclose(first, second), "the images look different to the model"


@torch.no_grad()
def test_inference_of_images_of_different_sizes():
    model = make()
    model.backbone._square_pad = 128  # alone as in the batch: padding is seen by convolutions
    batch = [*random_batch((0,), 64, 96), *random_batch((0,), 100, 50), *random_batch((0,), 30, 30)]
    batch[1] |= {"height": 200, "width": 75}
    together = model(batch)
    sizes = [x["instances"].image_size for x in together]
    assert sizes == [(64, 96), (200, 75), (30, 30)]
    for x, actual in zip(batch, together):
        assert_equal(actual["instances"], model([x])[0]["instances"])
        height, width = actual["instances"].image_size
        boxes = actual["instances"].pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all()


@torch.no_grad()
def test_inference_gives_detections_by_falling_score_with_all_fields():
    model = make()
    instances = model(random_batch((0,)))[0]["instances"]
    assert set(instances.get_fields()) == {
        "pred_boxes",
        "scores",
        "pred_classes",
        "pred_masks",
        "query_idx",
    }
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    pairs = list(zip(instances.query_idx.tolist(), instances.pred_classes.tolist()))
    everything = [(q, k) for q in range(NUM_QUERIES) for k in range(NUM_CLASSES)]
    assert sorted(pairs) == everything
    assert instances.pred_masks.shape == (18, 64, 96) and instances.pred_masks.dtype == torch.bool


@torch.no_grad()
def test_inference_without_postprocessing_gives_unclipped_boxes_and_mask_scores():
    model = make()
    (x,) = random_batch((0,))
    x |= {"height": 128, "width": 96}  # twice as high, as wide
    (raw,) = model.inference([x], do_postprocess=False)
    assert raw.image_size == (64, 96)
    assert raw.pred_masks.shape == (18, 1, 28, 28)
    assert (raw.pred_masks > 0).all() and (raw.pred_masks < 1).all()
    final = model([x])[0]["instances"]
    assert final.image_size == (128, 96) and final.pred_masks.shape == (18, 128, 96)
    scaled = raw.pred_boxes.tensor * torch.tensor([1.0, 2.0, 1.0, 2.0])
    limits = torch.tensor([96.0, 128.0, 96.0, 128.0]).double()
    assert (scaled > limits).any() or (scaled < 0).any(), "some box crosses the border"
    torch.testing.assert_close(final.pred_boxes.tensor, torch.minimum(scaled.clamp(min=0), limits))
    for name in ("scores", "pred_classes", "query_idx"):
        assert torch.equal(final.get(name), raw.get(name))


@torch.no_grad()
def test_inference_gives_the_size_of_the_input_where_nothing_is_said():
    (x,) = random_batch((0,), 50, 70)
    del x["height"], x["width"], x["instances"]
    assert make()([x])[0]["instances"].image_size == (50, 70)


def predict_and_count(model: nn.Module, batch: list[dict]):
    """Predictions, and how many queries the last mask head and the others were run on."""
    rows: list[int] = []
    stages = model.mask_head.stages
    hooks = [
        stage.dynamic_conv.register_forward_hook(
            lambda _, args, __, i=i: rows.append((i, len(args[0])))
        )
        for i, stage in enumerate(stages)
    ]
    results = model.inference(batch, do_postprocess=False)
    for hook in hooks:
        hook.remove()
    assert {stage for stage, _ in rows} <= {len(stages) - 1}, "the last stage alone"
    return results, sum(number for _, number in rows)


@torch.no_grad()
def test_inference_applies_the_threshold_before_the_masks():
    batch = random_batch((0, 0))
    everything, _ = predict_and_count(make(), batch)
    threshold = torch.cat([x.scores for x in everything]).sort().values[-9].item()
    model = make(MODEL__ROI_HEADS__SCORE_THRESH_TEST=threshold)
    kept, num_rows = predict_and_count(model, batch)
    assert sum(len(x) for x in kept) == 8, "what equals the threshold is dropped"
    num_queries = sum(len(set(x.query_idx.tolist())) for x in kept)
    assert num_rows == num_queries <= 8
    for actual, full in zip(kept, everything):
        assert_equal(actual, full[full.scores > threshold])


@torch.no_grad()
def test_inference_runs_the_mask_head_once_for_each_query():
    results, num_rows = predict_and_count(make(), random_batch((0, 0)))
    assert [len(x) for x in results] == [18, 18]
    assert num_rows == 2 * NUM_QUERIES
    result, _ = results
    for query in range(NUM_QUERIES):
        masks = result.pred_masks[result.query_idx == query]
        assert len(masks) == 3 and not torch.allclose(masks[0], masks[1])


@pytest.mark.parametrize("limit, expected", [(1, 1), (5, 5), (18, 18), (100, 18)])
@torch.no_grad()
def test_inference_keeps_detections_per_image(limit, expected):
    batch = random_batch((0, 0))
    kept, _ = predict_and_count(make(TEST__DETECTIONS_PER_IMAGE=limit), batch)
    everything, _ = predict_and_count(make(), batch)
    for actual, full in zip(kept, everything):
        assert len(actual) == expected
        assert_equal(actual, full[:expected])


@torch.no_grad()
def test_inference_with_nothing_above_the_threshold():
    model = make(MODEL__ROI_HEADS__SCORE_THRESH_TEST=1.0)
    for x in model(random_batch((0, 0))):
        instances = x["instances"]
        assert len(instances) == 0
        assert instances.pred_masks.shape == (0, 64, 96)
        assert instances.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize(
    "overrides, num",
    [
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 1}, 6),
        ({"MODEL__QUERYINST__NUM_QUERIES": 1}, 3),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 1, "MODEL__QUERYINST__NUM_QUERIES": 1}, 1),
        ({"MODEL__QUERYINST__NUM_STAGES": 1}, 18),
        ({"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}, 18),
        ({"MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 7}, 18),
        ({"MODEL__ROI_MASK_HEAD__NORM": ""}, 18),
    ],
)
@torch.no_grad()
def test_inference_of_any_sizes_that_the_keys_allow(overrides, num):
    model = make(**overrides)
    batch = random_batch((0,))
    (raw,) = model.inference(batch, do_postprocess=False)
    side = 2 * overrides.get("MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION", 14)
    assert raw.pred_masks.shape == (num, 1, side, side)
    assert model(batch)[0]["instances"].pred_masks.shape == (num, 64, 96)
    assert raw.scores.isfinite().all() and raw.pred_boxes.tensor.isfinite().all()
    if "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK" in overrides:
        masks = raw.pred_masks[raw.query_idx == 0]
        assert torch.equal(masks[0], masks[2]), "one mask for all classes of a query"


@torch.no_grad()
def test_inference_drops_detections_outside_of_the_image():
    model = make()
    boxes = model.initial_queries.boxes_cxcywh_norm.data
    boxes[[1, 3], :2] = 30.0
    batch = random_batch((0, 0))
    for x, raw in zip(model(batch), model.inference(batch, do_postprocess=False), strict=True):
        is_inside = (raw.query_idx != 1) & (raw.query_idx != 3)
        assert len(raw) == 18 and is_inside.sum() == 12
        for name in ("scores", "pred_classes", "query_idx"):
            assert torch.equal(x["instances"].get(name), raw[is_inside].get(name))
        assert (x["instances"].pred_boxes.area() > 0).all()
    boxes[:, :2] = 30.0
    for x in model(batch):
        assert len(x["instances"]) == 0
        assert x["instances"].pred_masks.shape == (0, 64, 96)
        assert x["instances"].pred_masks.dtype == torch.bool
