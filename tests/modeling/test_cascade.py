"""The box stages in a row: what each one sees, and where gradients end."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torchvision.ops import roi_align

from queryinst.modeling.cascade import QueryCascade
from queryinst.testing import tiny_cfg

SHAPES = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}
BBOX_REG_WEIGHTS = (2.0, 2.0, 1.0, 1.0)


class Shift(nn.Module):
    """A stage that moves every box right by a learned share of its width, and adds to features."""

    def __init__(self, share: float):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.seen: list[tuple] = []

    def forward(self, query_feats, roi_feats):
        self.seen.append((query_feats, roi_feats))
        num_images, num_queries = query_feats.shape[:2]
        deltas = torch.zeros(num_images, num_queries, 4)
        deltas[..., 0] = BBOX_REG_WEIGHTS[0] * self.share
        return query_feats[..., :1], deltas, query_feats + self.share, query_feats * 2


class Center(nn.Module):
    """A pooler that returns the RoIs themselves, as (R, 5, 1, 1)."""

    def forward(self, features, rois):
        return rois[:, :, None, None]


def make_shifts(*shares: float) -> QueryCascade:
    stages = [Shift(share) for share in shares]
    return QueryCascade(pooler=Center(), stages=stages, bbox_reg_weights=BBOX_REG_WEIGHTS)


def test_every_stage_starts_from_the_last_ones_boxes_and_features():
    cascade = make_shifts(0.5, 0.25)
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 4.0]], [[2.0, 2.0, 6.0, 6.0]]])
    query_feats = torch.tensor([[[1.0]], [[3.0]]])
    first, second = cascade([], boxes, query_feats)
    assert first.boxes.tolist() == [[[4, 0, 12, 4]], [[4, 2, 8, 6]]]
    assert second.boxes.tolist() == [[[6, 0, 14, 4]], [[5, 2, 9, 6]]]
    assert first.query_feats.flatten().tolist() == [1.5, 3.5]
    assert second.query_feats.flatten().tolist() == [1.75, 3.75]
    assert first.mask_queries.flatten().tolist() == [2, 6]
    assert second.class_logits.flatten().tolist() == [1.5, 3.5]
    # the RoIs: image after image, with the boxes that the stage before has left
    rois = [stage.seen[0][1][:, :, 0, 0].tolist() for stage in cascade.stages]
    assert rois[0] == [[0, 0, 0, 8, 4], [1, 2, 2, 6, 6]]
    assert rois[1] == [[0, 4, 0, 12, 4], [1, 4, 2, 8, 6]]


def test_boxes_are_detached_between_stages_and_features_never():
    cascade = make_shifts(0.5, 0.25, 0.125)
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 4.0]]], requires_grad=True)
    query_feats = torch.ones(1, 1, 1, requires_grad=True)
    outputs = cascade([], boxes, query_feats)
    shares = [stage.share for stage in cascade.stages]
    for stage, output in enumerate(outputs):
        inputs = [boxes, *shares]
        grads = torch.autograd.grad(
            output.boxes.sum(), inputs, allow_unused=True, retain_graph=True
        )
        touched = [grad is not None and bool(grad.any()) for grad in grads]
        # the initial boxes learn from stage 0, each delta from its own stage
        assert touched == [stage == 0, *(stage == i for i in range(3))]
    grads = torch.autograd.grad(outputs[-1].query_feats.sum(), [query_feats, *shares])
    assert [grad.item() for grad in grads] == [1, 1, 1, 1]
    assert not any(stage.seen[0][1].requires_grad for stage in cascade.stages)


def make_real(**overrides) -> QueryCascade:
    torch.manual_seed(0)
    return QueryCascade(tiny_cfg(**overrides), SHAPES).double()


def random_inputs(num_images: int, num_queries: int, channels: int = 16):
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = [randn(num_images, channels, 64 >> i, 64 >> i) for i in range(4)]
    corner = torch.rand(num_images, num_queries, 2, generator=generator, dtype=torch.float64) * 150
    boxes = torch.cat([corner, corner + 10 + randn(num_images, num_queries, 2).abs() * 80], -1)
    return features, boxes, randn(num_images, num_queries, channels)


def pool_slowly(features, boxes, image: int) -> torch.Tensor:
    """RoI after RoI from the level of its size."""
    pooled = []
    for box in boxes.tolist():
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(3, max(0, math.floor(math.log2(side / 56))))
        roi = torch.tensor([[0, *box]], dtype=torch.float64)
        feats = features[level][[image]]
        pooled.append(roi_align(feats, roi, (7, 7), 1 / (4 << level), 2, aligned=True)[0])
    return torch.stack(pooled)


@torch.no_grad()
def test_the_cascade_is_its_stages_image_by_image():
    cascade = make_real()
    features, boxes, query_feats = random_inputs(2, 3)
    outputs = cascade(features, boxes, query_feats)
    assert len(outputs) == 2
    for image in range(2):
        image_boxes, feats = boxes[image], query_feats[[image]]
        for stage, output in zip(cascade.stages, outputs):
            roi_feats = pool_slowly(features, image_boxes, image)
            logits, deltas, feats, mask_queries = stage(feats, roi_feats)
            dx, dy, dw, dh = deltas[0].unbind(1)
            x0, y0, x1, y1 = image_boxes.unbind(1)
            width, height = x1 - x0, y1 - y0
            center_x, center_y = x0 + width * (0.5 + dx / 2), y0 + height * (0.5 + dy / 2)
            half_w, half_h = width * dw.exp() / 2, height * dh.exp() / 2
            sides = (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
            image_boxes = torch.stack(sides, 1)
            torch.testing.assert_close(output.class_logits[image], logits[0])
            torch.testing.assert_close(output.boxes[image], image_boxes)
            torch.testing.assert_close(output.query_feats[image], feats[0])
            torch.testing.assert_close(output.mask_queries[image], mask_queries[0])


@pytest.mark.parametrize("num_images, num_queries", [(1, 1), (2, 5), (3, 1)])
@pytest.mark.parametrize("num_stages", [1, 3])
def test_shapes(num_images, num_queries, num_stages):
    cascade = make_real(MODEL__QUERYINST__NUM_STAGES=num_stages, MODEL__ROI_HEADS__NUM_CLASSES=2)
    outputs = cascade(*random_inputs(num_images, num_queries))
    assert len(outputs) == num_stages
    for output in outputs:
        shapes = [tuple(x.shape) for x in output]
        assert shapes == [(num_images, num_queries, size) for size in (2, 4, 16, 16)]
        assert all(x.dtype == torch.float64 for x in output)


@pytest.mark.parametrize("num_stages", [0, -1])
def test_there_is_a_stage(num_stages):
    with pytest.raises(ValueError, match="num_stages=.* must be >= 1; .*QUERYINST.NUM_STAGES"):
        make_real(MODEL__QUERYINST__NUM_STAGES=num_stages)
