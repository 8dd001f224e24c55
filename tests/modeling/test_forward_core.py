"""forward_core, the network in tensors alone: it detects what inference does, and can be traced."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from queryinst.modeling import QueryInst
from queryinst.structures import Detections
from queryinst.testing import random_batch, spread_queries, tiny_cfg

NUM_QUERIES = 6


def make(**overrides) -> QueryInst:
    """A model in float64 whose scores, boxes and queries differ from each other."""
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg(**overrides)).double().eval()
    spread_queries(model)
    return model


def make_inputs(model: QueryInst) -> tuple[list[dict], Tensor, Tensor]:
    """Two images of different sizes, as `inference` takes them, and as `forward_core` does."""
    batch = random_batch((0,), 64, 96) + random_batch((0,), 50, 70, seed=1)
    images = model.preprocess_image(batch)
    return batch, images.tensor, torch.tensor([list(size) for size in images.image_sizes])


def count_rows(model: QueryInst) -> list[int]:
    """Filled with the number of queries of each call to the last mask head."""
    rows: list[int] = []
    head = model.mask_head.stages[-1]
    head.dynamic_conv.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    return rows


SIZES = [
    ({}, 18),  # each query for each of three classes
    ({"TEST__DETECTIONS_PER_IMAGE": 7}, 7),  # more detections than queries
    ({"TEST__DETECTIONS_PER_IMAGE": 4}, 4),  # fewer
    ({"TEST__DETECTIONS_PER_IMAGE": 1}, 1),
    ({"MODEL__ROI_HEADS__NUM_CLASSES": 1}, 6),
    ({"MODEL__QUERYINST__NUM_QUERIES": 1}, 3),
    ({"MODEL__QUERYINST__NUM_QUERIES": 1, "MODEL__ROI_HEADS__NUM_CLASSES": 1}, 1),
    ({"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}, 18),
]


@pytest.mark.parametrize("overrides, num", SIZES)
@torch.no_grad()
def test_forward_core_detects_what_inference_does(overrides, num):
    model = make(**overrides)
    batch, images, sizes = make_inputs(model)
    core = model.forward_core(images, sizes)
    shapes = [(2, num, 4), (2, num), (2, num), (2, num), (2, num, 28, 28)]
    assert [tuple(x.shape) for x in core] == shapes
    for image, expected in enumerate(model.inference(batch, do_postprocess=False)):
        boxes, scores, classes, query_idx, masks = (x[image] for x in core)
        torch.testing.assert_close(boxes, expected.pred_boxes.tensor)
        torch.testing.assert_close(scores, expected.scores)
        assert torch.equal(classes, expected.pred_classes)
        assert torch.equal(query_idx, expected.query_idx)
        torch.testing.assert_close(masks, expected.pred_masks[:, 0])
        for query in query_idx.unique():
            others = masks[query_idx == query]
            is_agnostic = "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK" in overrides
            assert all(torch.equal(others[0], x) == is_agnostic for x in others[1:])


@pytest.mark.parametrize("overrides, num", SIZES)
@torch.no_grad()
def test_forward_core_runs_the_mask_head_once_for_each_query(overrides, num):
    model = make(**overrides)
    _, images, sizes = make_inputs(model)
    rows = count_rows(model)
    model.forward_core(images, sizes)
    num_queries = overrides.get("MODEL__QUERYINST__NUM_QUERIES", NUM_QUERIES)
    assert rows == [2 * min(num, num_queries)]


@torch.no_grad()
def test_forward_core_and_inference_share_one_selection(monkeypatch):
    """Of detections that no score would choose: the worst, with one query for two classes."""
    query_idx, classes = torch.tensor([[5, 0, 5], [2, 2, 3]]), torch.tensor([[2, 1, 0], [1, 0, 2]])

    def select(output, max_detections, nms_threshold):
        assert max_detections == 100 and nms_threshold == 1
        scores = torch.full((2, 3), 0.5, dtype=torch.float64)
        boxes = output.boxes.gather(1, query_idx[..., None].expand(-1, -1, 4))
        return Detections(boxes, scores, classes, query_idx)

    monkeypatch.setattr("queryinst.modeling.meta_arch.select_detections", select)
    model = make()
    batch, images, sizes = make_inputs(model)
    core = model.forward_core(images, sizes)
    assert core[3].equal(query_idx)
    for image, actual in enumerate(model.inference(batch, do_postprocess=False)):
        assert actual.query_idx.equal(query_idx[image]) and actual.pred_classes.equal(
            classes[image]
        )
        torch.testing.assert_close(actual.pred_boxes.tensor, core[0][image])
        torch.testing.assert_close(actual.pred_masks[:, 0], core[4][image])


class Core(nn.Module):
    """forward_core as `forward`, which tracing and export take."""

    def __init__(self, model: QueryInst):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        return self.model.forward_core(images, image_sizes)


@pytest.mark.parametrize(
    "overrides", [{}, {"MODEL__MASK_ON": False}, {"MODEL__QUERYINST__NMS_THRESH_TEST": 0.3}]
)
@torch.no_grad()
def test_forward_core_can_be_traced(overrides):
    """The trace holds for other images of the same size."""
    model = make(TEST__DETECTIONS_PER_IMAGE=7, **overrides)
    _, images, sizes = make_inputs(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Core(model), (images, sizes))
    other = images.flip(0, 3).roll(5, dims=2)
    expected = model.forward_core(other, sizes.flip(0))
    for ours, theirs in zip(traced(other, sizes.flip(0)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
