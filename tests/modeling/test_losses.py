"""Losses and matching costs against loops over Python's floats, and against torchvision."""

import itertools
import math

import pytest
import torch
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from queryinst.modeling import losses

WHWH = (120.0, 80.0, 120.0, 80.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    """(*shape, 4) boxes of 1 to 61 pixels on a side; many pairs overlap, some do not."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(*shape, 4, generator=generator, dtype=torch.float64)
    corner = unit[..., :2] * 60
    return torch.cat([corner, corner + 1 + 60 * unit[..., 2:]], -1)


def focal(logit: float, target: int, alpha: float, gamma: float) -> float:
    score = 1 / (1 + math.exp(-logit))
    if target:
        return -alpha * (1 - score) ** gamma * math.log(score)
    return -(1 - alpha) * score**gamma * math.log(1 - score)


def giou(box1: list[float], box2: list[float]) -> float:
    width = max(0.0, min(box1[2], box2[2]) - max(box1[0], box2[0]))
    height = max(0.0, min(box1[3], box2[3]) - max(box1[1], box2[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box1, box2)]
    union = sum(areas) - width * height
    hull = (max(box1[2], box2[2]) - min(box1[0], box2[0])) * (
        max(box1[3], box2[3]) - min(box1[1], box2[1])
    )
    return width * height / union - (hull - union) / hull


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.75, 2.0), (0.5, 0.0), (0.25, 1.5)])
def test_focal_loss_is_the_formula(alpha, gamma):
    logits, targets = 3 * noise(4, 3), (noise(4, 3, seed=1) > 0).long()
    actual = losses.focal_loss(logits, targets, alpha, gamma)
    pairs = zip(logits.flatten().tolist(), targets.flatten().tolist())
    expected = torch.tensor([focal(x, t, alpha, gamma) for x, t in pairs], dtype=torch.float64)
    torch.testing.assert_close(actual.flatten(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 1), (0, 3), (2, 0, 3)])
def test_focal_loss_is_that_of_torchvision(shape):
    logits, targets = 5 * noise(*shape), (noise(*shape, seed=1) > 0).double()
    actual = losses.focal_loss(logits, targets, 0.25, 2.0)
    torch.testing.assert_close(actual, sigmoid_focal_loss(logits, targets, 0.25, 2.0))


def test_l1_loss_sums_four_coordinates_in_units_of_the_image():
    boxes, gt_boxes = random_boxes(5), random_boxes(5, seed=1)
    actual = losses.l1_loss(boxes, gt_boxes, torch.tensor(WHWH).double())
    expected = [
        sum(abs(a - b) / size for a, b, size in zip(box, gt, WHWH))
        for box, gt in zip(boxes.tolist(), gt_boxes.tolist())
    ]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_giou_loss_is_the_formula():
    boxes, gt_boxes = random_boxes(40), random_boxes(40, seed=1)
    expected = [1 - giou(a, b) for a, b in zip(boxes.tolist(), gt_boxes.tolist())]
    assert min(expected) < 1 < max(expected), "overlapping and disjoint pairs"
    actual = losses.giou_loss(boxes, gt_boxes)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_giou_loss_of_known_pairs():
    square = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 2.0, 4.0, 4.0]])
    # equal; a third of the union, which is the hull; half of the hull empty
    actual = losses.giou_loss(square, others)
    torch.testing.assert_close(actual, torch.tensor([0.0, 2 / 3, 1.5]))


def dice(logits: torch.Tensor, mask: torch.Tensor) -> float:
    overlap = squares = 0.0
    for logit, inside in zip(logits.flatten().tolist(), mask.flatten().tolist()):
        score = 1 / (1 + math.exp(-logit))
        overlap += score * inside
        squares += score**2 + inside**2
    return 1 - 2 * overlap / (squares + 2e-5)


@pytest.mark.parametrize("num_masks, side", [(3, 4), (1, 1), (0, 4)])
def test_dice_loss_is_the_formula(num_masks, side):
    logits, masks = noise(num_masks, side, side), noise(num_masks, side, side, seed=1) > 0
    actual = losses.dice_loss(logits, masks)
    expected = torch.tensor([dice(x, t) for x, t in zip(logits, masks)], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_dice_loss_of_known_masks():
    left = torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    sure = 200.0 * (2 * left.double() - 1)
    # right, wrong everywhere, and nothing said of nothing, where only the two epsilons are left
    gt_masks = torch.stack([left, ~left, nothing])
    actual = losses.dice_loss(torch.stack([sure, sure, torch.full_like(sure, -200)]), gt_masks)
    torch.testing.assert_close(actual, torch.tensor([0.0, 1.0, 1.0]).double(), rtol=0, atol=2e-6)
    # the larger eps shows where no pixel is set: 1 - 0 / (16 * 0.25 + 2 * eps)
    half = losses.dice_loss(torch.zeros(1, 1), torch.ones(1, 1), eps=0.5)
    torch.testing.assert_close(half, torch.tensor(1 - 2 * 0.5 / (0.25 + 1 + 1)))


@pytest.mark.parametrize("num_masks, side", [(3, 4), (1, 1), (0, 4)])
def test_mask_bce_loss_is_the_formula(num_masks, side):
    logits, masks = noise(num_masks, side, side), noise(num_masks, side, side, seed=1) > 0
    expected = [
        -sum(math.log(sigmoid if inside else 1 - sigmoid) for sigmoid, inside in zip(*pixels))
        / side**2
        for pixels in zip(logits.sigmoid().flatten(1).tolist(), masks.flatten(1).tolist())
    ]
    actual = losses.mask_bce_loss(logits, masks)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("num_queries, num_gts", [(4, 3), (1, 3), (4, 0), (0, 2)])
def test_focal_cost_is_what_the_loss_rises_by(num_queries, num_gts):
    logits, classes = 2 * noise(num_queries, 5), torch.arange(num_gts) % 5
    actual = losses.focal_cost(logits, classes, 0.25, 2.0)
    assert actual.shape == (num_queries, num_gts)
    for query, gt in itertools.product(range(num_queries), range(num_gts)):
        logit = logits[query, classes[gt]].item()
        expected = focal(logit, 1, 0.25, 2.0) - focal(logit, 0, 0.25, 2.0)
        assert actual[query, gt].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_queries, num_gts", [(4, 3), (1, 3), (4, 0), (0, 2)])
def test_l1_cost_is_pairwise(num_queries, num_gts):
    boxes, gt_boxes = random_boxes(num_queries), random_boxes(num_gts, seed=1)
    actual = losses.l1_cost(boxes, gt_boxes, torch.tensor([WHWH]).double())
    assert actual.shape == (num_queries, num_gts)
    for query, gt in itertools.product(range(num_queries), range(num_gts)):
        terms = zip(boxes[query].tolist(), gt_boxes[gt].tolist(), WHWH)
        assert actual[query, gt].item() == pytest.approx(sum(abs(a - b) / s for a, b, s in terms))


@pytest.mark.parametrize("num_queries, num_gts", [(4, 3), (1, 3), (4, 0), (0, 2)])
def test_giou_cost_is_that_of_torchvision(num_queries, num_gts):
    boxes, gt_boxes = random_boxes(num_queries), random_boxes(num_gts, seed=1)
    actual = losses.giou_cost(boxes, gt_boxes)
    torch.testing.assert_close(actual, -generalized_box_iou(boxes, gt_boxes))


def test_costs_of_a_batch_are_those_of_its_images():
    """Leading dimensions: stages, then images; the ground truth has images alone."""
    logits, boxes = noise(2, 3, 4, 5), random_boxes(2, 3, 4)
    gt_boxes, whwh = random_boxes(3, 2, seed=1), 100 + 50 * noise(3, 1, 4).abs()
    classes = torch.tensor([[0, 4], [2, 2], [1, 3]])
    batched = {
        "class": losses.focal_cost(logits, classes.expand(2, -1, -1), 0.25, 2.0),
        "l1": losses.l1_cost(boxes, gt_boxes, whwh),
        "giou": losses.giou_cost(boxes, gt_boxes),
    }
    for stage, image in itertools.product(range(2), range(3)):
        single = {
            "class": losses.focal_cost(logits[stage, image], classes[image], 0.25, 2.0),
            "l1": losses.l1_cost(boxes[stage, image], gt_boxes[image], whwh[image]),
            "giou": losses.giou_cost(boxes[stage, image], gt_boxes[image]),
        }
        for name, cost in batched.items():
            torch.testing.assert_close(cost[stage, image], single[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_and_dice_loss_have_finite_gradients_at_extreme_logits(dtype, target):
    logits = torch.tensor([-6e4, -200, -90, -17, 0, 17, 90, 200, 6e4], dtype=dtype)
    logits = logits.view(3, 3).requires_grad_()
    targets = torch.full((3, 3), target)
    focal_loss = losses.focal_loss(logits, targets, 0.25, 2.0)
    dice_loss = losses.dice_loss(logits, targets)
    assert focal_loss.isfinite().all() and dice_loss.isfinite().all()
    (focal_loss.sum() + dice_loss.sum()).backward()
    assert logits.grad.isfinite().all()
    cost = losses.focal_cost(logits.detach(), torch.tensor([0, 2]), 0.25, 2.0)
    assert cost.isfinite().all()


@pytest.mark.parametrize(
    "box",
    [
        (5.0, 5.0, 5.0, 5.0),  # a point
        (5.0, 5.0, 9.0, 5.0),  # a line
        (9.0, 9.0, 5.0, 5.0),  # upside down
        (-1e4, -1e4, 1e5, 1e5),  # far larger than the image
    ],
)
@pytest.mark.parametrize("gt_box", [(5.0, 5.0, 5.0, 5.0), (4.0, 4.0, 8.0, 8.0)])
def test_giou_loss_has_finite_gradients_of_degenerate_boxes(box, gt_box):
    boxes = torch.tensor([box], requires_grad=True)
    gt_boxes = torch.tensor([gt_box])
    l1_loss = losses.l1_loss(boxes, gt_boxes, torch.tensor([WHWH]))
    giou_loss = losses.giou_loss(boxes, gt_boxes)
    assert l1_loss.isfinite().all() and giou_loss.isfinite().all()
    (l1_loss + giou_loss).sum().backward()
    assert boxes.grad.isfinite().all()
    assert losses.giou_cost(boxes.detach(), gt_boxes).isfinite().all()


def test_losses_have_gradients_of_finite_differences():
    logits, masks = noise(2, 3, 3).requires_grad_(), noise(2, 3, 3, seed=1) > 0
    boxes, gt_boxes = random_boxes(4).requires_grad_(), random_boxes(4, seed=1)
    whwh = torch.tensor([WHWH]).double()
    assert torch.autograd.gradcheck(lambda x: losses.focal_loss(x, masks, 0.25, 2.0), logits)
    assert torch.autograd.gradcheck(lambda x: losses.dice_loss(x, masks), logits)
    assert torch.autograd.gradcheck(lambda x: losses.giou_loss(x, gt_boxes), boxes)
    assert torch.autograd.gradcheck(lambda x: losses.l1_loss(x, gt_boxes, whwh), boxes)


@pytest.mark.parametrize(
    "given, expected",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_have_float32_as_a_floor(given, expected):
    logits, boxes, gt_boxes = noise(3, 4, 4), random_boxes(3), random_boxes(3, seed=1)
    logits, boxes, gt_boxes = (x.to(given) for x in (logits, boxes, gt_boxes))
    whwh, classes = torch.tensor([WHWH]).to(given), torch.tensor([0, 1])
    actual = {
        "focal_loss": losses.focal_loss(logits, logits > 0, 0.25, 2.0),
        "l1_loss": losses.l1_loss(boxes, gt_boxes, whwh),
        "giou_loss": losses.giou_loss(boxes, gt_boxes),
        "dice_loss": losses.dice_loss(logits, logits > 0),
        "focal_cost": losses.focal_cost(logits[0], classes, 0.25, 2.0),
        "l1_cost": losses.l1_cost(boxes, gt_boxes, whwh),
        "giou_cost": losses.giou_cost(boxes, gt_boxes),
    }
    assert {name: x.dtype for name, x in actual.items()} == dict.fromkeys(actual, expected)
    # the rounding of the inputs alone: nothing was computed in half precision
    precise = losses.giou_cost(boxes.double(), gt_boxes.double())
    torch.testing.assert_close(actual["giou_cost"].double(), precise, rtol=1e-5, atol=1e-5)
    precise = losses.dice_loss(logits.double(), logits > 0)
    torch.testing.assert_close(actual["dice_loss"].double(), precise, rtol=1e-5, atol=1e-6)
