"""Matching against brute force over all assignments."""

import itertools
import math

import pytest
import torch

from queryinst.modeling.matcher import HungarianMatcher, match_queries
from queryinst.structures import BatchTargets, StageOutput

WEIGHTS = {"class_cost": 2.0, "l1_cost": 5.0, "giou_cost": 2.0, "alpha": 0.25, "gamma": 2.0}


def cheapest(cost: torch.Tensor) -> float:
    """Least total over all ways to pair the smaller side with some of the larger."""
    rows = cost.tolist() if cost.shape[0] <= cost.shape[1] else cost.t().tolist()
    choices = itertools.permutations(range(max(cost.shape)), len(rows))
    return min(sum(row[i] for row, i in zip(rows, choice)) for choice in choices)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def random_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    corner, size = 60 * rand(*shape, 2, seed=seed), 1 + 60 * rand(*shape, 2, seed=seed + 1)
    return torch.cat([corner, corner + size], -1)


def make_outputs(num_stages: int, num_images: int, num_queries: int, num_classes: int = 3):
    feats = torch.zeros(num_images, num_queries, 2)
    shape = (num_images, num_queries)
    return [
        StageOutput(
            6 * rand(*shape, num_classes, seed=stage) - 3,
            random_boxes(*shape, seed=10 + stage),
            feats,
            feats,
        )
        for stage in range(num_stages)
    ]


def make_targets(nums: list[int], num_classes: int = 3) -> BatchTargets:
    sizes = [(120.0, 80.0), (100.0, 140.0), (64.0, 64.0)][: len(nums)]
    whwh = torch.tensor([[w, h, w, h] for w, h in sizes], dtype=torch.float64)
    classes = torch.arange(sum(nums)) % num_classes
    return BatchTargets(random_boxes(sum(nums), seed=50), classes, nums, whwh, None)


@pytest.mark.parametrize(
    "num_queries, num_gts", [(4, 4), (5, 2), (2, 5), (1, 3), (3, 1), (1, 1), (4, 0), (0, 2), (0, 0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_match_queries_is_the_cheapest_assignment(num_queries, num_gts, seed):
    cost = rand(num_queries, num_gts, seed=seed) - 0.5
    match = match_queries(cost)
    assert len(match.query_idx) == len(match.gt_idx) == min(num_queries, num_gts)
    assert match.query_idx.dtype == match.gt_idx.dtype == torch.int64
    assert match.query_idx.tolist() == sorted(set(match.query_idx.tolist()))
    assert len(set(match.gt_idx.tolist())) == len(match.gt_idx)
    actual = cost[match.query_idx, match.gt_idx].sum().item()
    assert actual == pytest.approx(cheapest(cost), abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_match_queries_counts_costs_that_are_not_finite(bad):
    cost = torch.zeros(3, 2)
    cost[1] = bad
    with pytest.raises(FloatingPointError, match="2 of 6 matching costs are not finite"):
        match_queries(cost)


def scalar_cost(logit: float, box: list, gt_box: list, whwh: list) -> float:
    """The weighted cost of one pair, from the paper's formulas."""
    score = 1 / (1 + math.exp(-logit))
    positive = -0.25 * (1 - score) ** 2 * math.log(score)
    negative = -0.75 * score**2 * math.log(1 - score)
    l1 = sum(abs(a - b) / size for a, b, size in zip(box, gt_box, whwh))
    overlap = max(0.0, min(box[2], gt_box[2]) - max(box[0], gt_box[0])) * max(
        0.0, min(box[3], gt_box[3]) - max(box[1], gt_box[1])
    )
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, gt_box)) - overlap
    hull = (max(box[2], gt_box[2]) - min(box[0], gt_box[0])) * (
        max(box[3], gt_box[3]) - min(box[1], gt_box[1])
    )
    giou = overlap / union - (hull - union) / hull
    return 2 * (positive - negative) + 5 * l1 - 2 * giou


def test_hungarian_matcher_costs_are_weighted_sums_in_units_of_each_image():
    outputs, targets = make_outputs(2, 2, 3), make_targets([2, 1])
    cost = HungarianMatcher(**WEIGHTS).costs(outputs, targets)
    assert cost.shape == (2, 2, 3, 2)
    gts = [(0, 0, 0), (0, 1, 1), (1, 0, 2)]  # image, its column, its row in the batch
    for stage, query, (image, column, row) in itertools.product(range(2), range(3), gts):
        expected = scalar_cost(
            outputs[stage].class_logits[image, query, targets.classes[row]].item(),
            outputs[stage].boxes[image, query].tolist(),
            targets.boxes[row].tolist(),
            targets.whwh[image].tolist(),
        )
        assert cost[stage, image, query, column].item() == pytest.approx(expected)


@pytest.mark.parametrize("nums", [[2, 3], [0, 2], [2, 0], [0, 0], [6, 1], [1, 0, 5], [3]])
def test_hungarian_matcher_matches_a_batch_as_its_images_alone(nums):
    num_queries = 4
    matcher = HungarianMatcher(**WEIGHTS)
    outputs, targets = make_outputs(2, len(nums), num_queries), make_targets(nums)
    matches = matcher(outputs, targets)
    assert len(matches) == 2
    for stage, match in enumerate(matches):
        assert len(match.query_idx) == sum(min(num_queries, num) for num in nums)
        alone = []
        for image, num in enumerate(nums):
            first = sum(nums[:image])
            rows = slice(first, first + num)
            single = BatchTargets(
                targets.boxes[rows], targets.classes[rows], [num], targets.whwh[[image]], None
            )
            output = StageOutput(*(x[[image]] for x in outputs[stage]))
            actual = matcher([output], single)[0]
            pairs = zip(actual.query_idx.tolist(), actual.gt_idx.tolist())
            alone += [(query + image * num_queries, gt + first) for query, gt in pairs]
            cost = matcher.costs([output], single)[0, 0]
            total = cost[actual.query_idx, actual.gt_idx].sum().item()
            assert total == pytest.approx(cheapest(cost) if num else 0)
        assert list(zip(match.query_idx.tolist(), match.gt_idx.tolist())) == alone


@pytest.mark.parametrize(
    "weights, expected",
    [
        # query 0 has the class, query 1 the corner, query 2 overlaps
        ({"class_cost": 1.0, "l1_cost": 0.0, "giou_cost": 0.0}, 0),
        ({"class_cost": 0.0, "l1_cost": 1.0, "giou_cost": 0.0}, 1),
        ({"class_cost": 0.0, "l1_cost": 0.0, "giou_cost": 1.0}, 2),
    ],
)
def test_hungarian_matcher_weights_decide_alone(weights, expected):
    boxes = [[80, 80, 90, 90], [9, 0, 10, 1], [0, 0, 20, 20]]
    logits = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [-3.0, 0.0]]])
    feats = torch.zeros(1, 3, 1)
    output = StageOutput(logits, torch.tensor([boxes]).float(), feats, feats)
    gt_box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    targets = BatchTargets(gt_box, torch.tensor([0]), [1], torch.full((1, 4), 100.0), None)
    match = HungarianMatcher(**WEIGHTS | weights)([output], targets)[0]
    assert match.query_idx.tolist() == [expected] and match.gt_idx.tolist() == [0]


@pytest.mark.parametrize("field", ["class_logits", "boxes"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hungarian_matcher_error_names_stage_and_image(field, bad):
    outputs, targets = make_outputs(3, 3, 4), make_targets([2, 1, 2])
    getattr(outputs[1], field)[2, 3] = math.nan if field == "class_logits" else bad
    with pytest.raises(FloatingPointError, match="^stage 1, image 2: 2 of 8 matching costs"):
        HungarianMatcher(**WEIGHTS)(outputs, targets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_hungarian_matcher_costs_are_never_in_half_precision(dtype):
    outputs, targets = make_outputs(1, 2, 4), make_targets([3, 2])
    halved = [StageOutput(*(x.to(dtype) for x in output)) for output in outputs]
    exact = [StageOutput(*(x.double() for x in output)) for output in halved]
    matcher = HungarianMatcher(**WEIGHTS)
    expected = matcher.costs(exact, targets)
    floats = targets._replace(boxes=targets.boxes.float(), whwh=targets.whwh.float())
    with torch.autocast("cpu", torch.bfloat16):
        cost = matcher.costs(halved, targets if dtype == torch.float64 else floats)
    assert cost.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(cost.double(), expected, rtol=1e-5, atol=1e-4)


def test_hungarian_matcher_takes_outputs_that_carry_a_graph():
    outputs = [StageOutput(*(x.requires_grad_() for x in make_outputs(1, 1, 4)[0]))]
    match = HungarianMatcher(**WEIGHTS)(outputs, make_targets([2]))[0]
    assert len(match.query_idx) == 2
