"""Box decoding against the formulas, and against Detectron2 where it agrees."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from queryinst.modeling.box_transform import TwoSidedBox2BoxTransform

WEIGHTS = (2.0, 2.0, 1.0, 1.0)
CLAMP = 4.135166556742356  # log(1000 / 16)


def decode(delta: list[float], box: list[float]) -> list[float]:
    dx, dy, dw, dh = (d / weight for d, weight in zip(delta, WEIGHTS))
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
def test_deltas_move_and_scale_and_are_clamped_on_both_sides(delta):
    deltas = torch.tensor([delta] * 3, dtype=torch.float64)
    found = TwoSidedBox2BoxTransform(weights=WEIGHTS).apply_deltas(deltas, BOXES)
    assert found.dtype == torch.float64
    for row, box in zip(found.tolist(), BOXES.tolist()):
        assert row == pytest.approx(decode(list(delta), box))


def test_it_is_detectron2s_transform_but_for_the_lower_clamp():
    ours, theirs = (cls(weights=WEIGHTS) for cls in (TwoSidedBox2BoxTransform, Box2BoxTransform))
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
def test_any_leading_dimensions(shape):
    transform = TwoSidedBox2BoxTransform(weights=WEIGHTS)
    torch.manual_seed(0)
    deltas, boxes = torch.randn(shape), torch.rand(shape).cumsum(-1)
    found = transform.apply_deltas(deltas, boxes)
    assert found.shape == shape
    flat = transform.apply_deltas(deltas.view(-1, 4), boxes.view(-1, 4))
    torch.testing.assert_close(found.view(-1, 4), flat)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_boxes_are_never_rounded_to_half_precision(dtype):
    transform = TwoSidedBox2BoxTransform(weights=WEIGHTS)
    deltas = torch.zeros(1, 4, dtype=dtype)
    boxes = torch.tensor([[801.3, 100.7, 1203.9, 333.3]], dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = transform.apply_deltas(deltas, boxes)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), boxes, rtol=1e-6, atol=0)


def test_gradients_are_finite_beyond_the_clamp():
    deltas = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    boxes = TwoSidedBox2BoxTransform(weights=WEIGHTS).apply_deltas(deltas, BOXES[:1])
    assert boxes.isfinite().all()
    boxes.sum().backward()
    assert deltas.grad.isfinite().all()
