"""The learned queries, box decoding, and the stages: what each sees, and where gradients end."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn
from torchvision.ops import roi_align

from queryinst.modeling.cascade import InitialQueries, QueryCascade, TwoSidedBox2BoxTransform
from queryinst.modeling.initial_boxes import grid_boxes
from queryinst.testing import tiny_cfg

SHAPES = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}
BBOX_REG_WEIGHTS = (2.0, 2.0, 1.0, 1.0)


@pytest.mark.parametrize("num_queries, embed_dim", [(1, 4), (5, 16)])
def test_initial_queries_start_as_the_whole_image(num_queries, embed_dim):
    queries = InitialQueries(num_queries=num_queries, embed_dim=embed_dim)
    whwh = torch.tensor([[96.0, 64.0, 96.0, 64.0], [50.0, 70.0, 50.0, 70.0]])
    boxes, query_feats = queries(whwh)
    assert boxes.tolist() == [[[0, 0, 96, 64]] * num_queries, [[0, 0, 50, 70]] * num_queries]
    assert query_feats.shape == (2, num_queries, embed_dim)
    assert torch.equal(query_feats[0], query_feats[1])


@pytest.mark.parametrize("num_boxes", [1, 2, 7, 30, 100, 300])
def test_grid_boxes_lie_near_every_point_of_the_image(num_boxes):
    boxes = grid_boxes(num_boxes, (0.25, 0.5))
    assert boxes.shape == (num_boxes, 4)
    assert torch.equal(boxes[:, 2], boxes[:, 3])
    counts = [(boxes[:, 2] == size).sum().item() for size in (0.25, 0.5)]
    assert sum(counts) == num_boxes and abs(counts[0] - counts[1]) <= round(math.sqrt(num_boxes))
    assert len(set(map(tuple, boxes[:, :2].tolist()))) == num_boxes
    axis = (torch.arange(50) + 0.5) / 50
    points = torch.cartesian_prod(axis, axis)
    nearest = torch.cdist(points, boxes[:, :2], p=float("inf")).min(1).values
    rows = round(math.sqrt(num_boxes))
    assert nearest.max() <= 0.5 / min(rows, num_boxes // rows) + 1e-6  # half the widest cell


def test_grid_boxes_of_several_sizes_take_turns_in_rows_and_columns():
    sizes = grid_boxes(9, (0.1, 0.2, 0.3))[:, 2].reshape(3, 3)
    torch.testing.assert_close(sizes, torch.tensor([[1, 2, 3], [2, 3, 1], [3, 1, 2]]) / 10)


def test_grid_boxes_of_a_square_number_are_the_cells():
    boxes = grid_boxes(4, (0.5,))
    assert boxes.tolist() == [[x, y, 0.5, 0.5] for y in (0.25, 0.75) for x in (0.25, 0.75)]


def test_initial_queries_start_on_the_grid_that_the_configuration_asks_for():
    keys = {"NUM_QUERIES": 6, "INITIAL_GRID_SIZES": (0.3,)}
    cfg = tiny_cfg(**{f"MODEL__QUERYINST__{key}": value for key, value in keys.items()})
    assert torch.equal(InitialQueries(cfg).boxes_cxcywh_norm, grid_boxes(6, (0.3,)))
    assert InitialQueries(tiny_cfg()).boxes_cxcywh_norm.unique(dim=0).tolist() == [[0.5, 0.5, 1, 1]]


def test_initial_queries_have_standard_normal_features():
    torch.manual_seed(0)
    feats = InitialQueries(num_queries=100, embed_dim=64).query_feats
    assert abs(feats.mean().item()) < 0.03 and abs(feats.std().item() - 1) < 0.03


def test_initial_queries_neither_clamp_nor_clip_boxes():
    queries = InitialQueries(num_queries=3, embed_dim=2).double()
    rows = [[0.5, 0.25, 0.2, 0.1], [0.0, 1.0, 1.0, 0.5], [1.5, -0.5, -0.2, 3.0]]
    queries.boxes_cxcywh_norm.data = torch.tensor(rows, dtype=torch.float64)
    sizes = [(200.0, 100.0), (30.0, 60.0)]
    boxes, _ = queries(torch.tensor([[w, h, w, h] for w, h in sizes]).double())
    for image, (width, height) in enumerate(sizes):
        for query, (cx, cy, w, h) in enumerate(rows):
            expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            expected = [x * side for x, side in zip(expected, (width, height, width, height))]
            assert boxes[image, query].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_queries_have_the_dtype_of_the_parameters(dtype):
    queries = InitialQueries(num_queries=2, embed_dim=2).to(dtype)
    boxes, query_feats = queries(torch.tensor([[3, 2, 3, 2]]))
    assert boxes.dtype == query_feats.dtype == dtype


def test_initial_queries_learn_from_all_images():
    queries = InitialQueries(num_queries=2, embed_dim=3)
    boxes, query_feats = queries(torch.tensor([[4.0, 2.0, 4.0, 2.0], [8.0, 6.0, 8.0, 6.0]]))
    (boxes.sum() + query_feats.sum()).backward()
    # the sum of all corners is twice the centre, in pixels of both images
    assert queries.boxes_cxcywh_norm.grad.tolist() == [[2 * (4 + 8), 2 * (2 + 6), 0, 0]] * 2
    assert queries.query_feats.grad.tolist() == [[2.0] * 3] * 2


CLAMP = 4.135166556742356  # log(1000 / 16)


def decode(delta: list[float], box: list[float]) -> list[float]:
    dx, dy, dw, dh = (d / weight for d, weight in zip(delta, BBOX_REG_WEIGHTS))
    width, height = box[2] - box[0], box[3] - box[1]
    center_x, center_y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    half_w = width * math.exp(min(max(dw, -CLAMP), CLAMP)) / 2
    half_h = height * math.exp(min(max(dh, -CLAMP), CLAMP)) / 2
    return [center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h]


BOXES = torch.tensor([[10.0, 20.0, 40.0, 30.0], [-5.0, -5.0, 0.0, 15.0], [7.0, 7.0, 7.0, 7.0]])


@pytest.mark.parametrize(
    "delta",
    [(0, 0, 0, 0), (0.3, -0.7, 0.2, -0.1), (9.0, -9.0, 50.0, -50.0), (0.1, 0.1, -4.2, 4.2)],
)
def test_apply_deltas_moves_and_scales_and_clamps_on_both_sides(delta):
    deltas = torch.tensor([delta] * 3, dtype=torch.float64)
    actual = TwoSidedBox2BoxTransform(weights=BBOX_REG_WEIGHTS).apply_deltas(deltas, BOXES)
    assert actual.dtype == torch.float64
    for row, box in zip(actual.tolist(), BOXES.tolist()):
        assert row == pytest.approx(decode(list(delta), box))


def test_apply_deltas_is_detectron2s_but_for_the_lower_clamp():
    ours, theirs = (
        cls(weights=BBOX_REG_WEIGHTS) for cls in (TwoSidedBox2BoxTransform, Box2BoxTransform)
    )
    torch.manual_seed(0)
    deltas, boxes = torch.randn(20, 4), torch.rand(20, 4).cumsum(1) * 50
    torch.testing.assert_close(ours.apply_deltas(deltas, boxes), theirs.apply_deltas(deltas, boxes))
    tiny = torch.tensor([[0.0, 0.0, -9.0, -9.0]])
    assert ours.apply_deltas(tiny, boxes[:1])[0, 2] > theirs.apply_deltas(tiny, boxes[:1])[0, 2]
    # and what it encodes it decodes
    targets = boxes[:, :4] + torch.tensor([1.0, 2.0, 3.0, 4.0])
    encoded = ours.get_deltas(boxes, targets)
    torch.testing.assert_close(ours.apply_deltas(encoded, boxes), targets)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (2, 3, 4)])
def test_apply_deltas_takes_any_leading_dimensions(shape):
    transform = TwoSidedBox2BoxTransform(weights=BBOX_REG_WEIGHTS)
    torch.manual_seed(0)
    deltas, boxes = torch.randn(shape), torch.rand(shape).cumsum(-1)
    actual = transform.apply_deltas(deltas, boxes)
    assert actual.shape == shape
    flat = transform.apply_deltas(deltas.view(-1, 4), boxes.view(-1, 4))
    torch.testing.assert_close(actual.view(-1, 4), flat)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_apply_deltas_never_rounds_to_half_precision(dtype):
    transform = TwoSidedBox2BoxTransform(weights=BBOX_REG_WEIGHTS)
    deltas = torch.zeros(1, 4, dtype=dtype)
    boxes = torch.tensor([[801.3, 100.7, 1203.9, 333.3]], dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        actual = transform.apply_deltas(deltas, boxes)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.double(), boxes, rtol=1e-6, atol=0)


def test_apply_deltas_has_finite_gradients_beyond_the_clamp():
    deltas = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    boxes = TwoSidedBox2BoxTransform(weights=BBOX_REG_WEIGHTS).apply_deltas(deltas, BOXES[:1])
    assert boxes.isfinite().all()
    boxes.sum().backward()
    assert deltas.grad.isfinite().all()


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


def test_query_cascade_starts_each_stage_from_the_last_ones_output():
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


def test_query_cascade_detaches_boxes_between_stages_and_features_never():
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
def test_query_cascade_is_its_stages_image_by_image():
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
def test_query_cascade_shapes(num_images, num_queries, num_stages):
    cascade = make_real(MODEL__QUERYINST__NUM_STAGES=num_stages, MODEL__ROI_HEADS__NUM_CLASSES=2)
    outputs = cascade(*random_inputs(num_images, num_queries))
    assert len(outputs) == num_stages
    for output in outputs:
        shapes = [tuple(x.shape) for x in output]
        assert shapes == [(num_images, num_queries, size) for size in (2, 4, 16, 16)]
        assert all(x.dtype == torch.float64 for x in output)
