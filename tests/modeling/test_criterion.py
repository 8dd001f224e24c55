"""The losses of all stages against sums over images, queries and classes."""

import itertools
import math

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils import comm
from torch.nn.functional import binary_cross_entropy_with_logits

from queryinst.modeling.criterion import SetCriterion
from queryinst.modeling.targets import crop_gt_masks
from queryinst.structures import BatchTargets, MatchedIndices, StageOutput
from queryinst.testing import random_instances, tiny_cfg

NUM_CLASSES, NUM_QUERIES, SIZE = 3, 4, 28
EPS = 1.1920929e-7
PADDED = (64, 96)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make(**overrides) -> SetCriterion:
    return SetCriterion(tiny_cfg(**overrides))


def make_batch(nums: list[int], num_stages: int = 2, mask_channels: int = NUM_CLASSES):
    """Outputs, mask logits, matches and targets; matches are made up, not the cheapest."""
    num_images = len(nums)
    outputs, mask_logits, matches = [], [], []
    for stage in range(num_stages):
        shape = (num_images, NUM_QUERIES)
        corner = randn(*shape, 2, seed=stage).abs() * 20
        boxes = torch.cat([corner, corner + 5 + randn(*shape, 2, seed=9 + stage).abs() * 30], -1)
        feats = randn(*shape, 2)
        outputs.append(
            StageOutput(randn(*shape, NUM_CLASSES, seed=20 + stage), boxes, feats, feats)
        )
        query_idx, gt_idx, first_gt = [], [], 0
        for image, num in enumerate(nums):
            matched = min(num, NUM_QUERIES)
            query_idx += [image * NUM_QUERIES + (q + stage) % NUM_QUERIES for q in range(matched)]
            gt_idx += [first_gt + num - 1 - gt for gt in range(matched)]
            first_gt += num
        matches.append(
            MatchedIndices(
                torch.tensor(query_idx, dtype=torch.int64), torch.tensor(gt_idx, dtype=torch.int64)
            )
        )
        mask_logits.append(randn(len(query_idx), mask_channels, SIZE, SIZE, seed=30 + stage))
    sizes = [(96.0, 64.0), (80.0, 56.0), (64.0, 64.0)][:num_images]
    instances = [
        random_instances(num, int(h), int(w), NUM_CLASSES, seed=image)
        for image, (num, (w, h)) in enumerate(zip(nums, sizes))
    ]
    targets = BatchTargets(
        torch.cat([x.gt_boxes.tensor for x in instances]).double(),
        torch.cat([x.gt_classes for x in instances]),
        nums,
        torch.tensor([[w, h, w, h] for w, h in sizes], dtype=torch.float64),
        [x.gt_masks for x in instances],
    )
    return outputs, mask_logits, matches, targets


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def class_sum(output: StageOutput, match: MatchedIndices, targets: BatchTargets) -> float:
    positives = {
        (query, int(targets.classes[gt]))
        for query, gt in zip(match.query_idx.tolist(), match.gt_idx.tolist())
    }
    logits = output.class_logits.flatten(0, 1)
    total = 0.0
    for query, label in itertools.product(range(len(logits)), range(NUM_CLASSES)):
        score = sigmoid(logits[query, label].item())
        if (query, label) in positives:
            total += -0.25 * (1 - score) ** 2 * math.log(score)
        else:
            total += -0.75 * score**2 * math.log(1 - score)
    return total


def giou(a: list[float], b: list[float]) -> float:
    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull


def box_sums(output, match, targets) -> tuple[float, float]:
    l1_total = giou_total = 0.0
    for query, gt in zip(match.query_idx.tolist(), match.gt_idx.tolist()):
        image = query // NUM_QUERIES
        box = output.boxes[image, query % NUM_QUERIES].tolist()
        gt_box, whwh = targets.boxes[gt].tolist(), targets.whwh[image].tolist()
        l1_total += sum(abs(x - y) / side for x, y, side in zip(box, gt_box, whwh))
        giou_total += 1 - giou(box, gt_box)
    return l1_total, giou_total


def mask_sum(output, logits, match, targets) -> float:
    """Detectron2's own crop of clipped boxes is the target; the ground truth's channel counts."""
    total = 0.0
    for row, (query, gt) in enumerate(zip(match.query_idx.tolist(), match.gt_idx.tolist())):
        image = query // NUM_QUERIES
        box = output.boxes[image, query % NUM_QUERIES].clamp(min=0)
        box = torch.minimum(box, box.new_tensor([PADDED[1], PADDED[0]] * 2))
        bits = targets.masks[image].tensor[gt - sum(targets.num_per_image[:image])]
        padded = torch.zeros(1, *PADDED, dtype=torch.bool)
        padded[0, : bits.shape[0], : bits.shape[1]] = bits
        gt_mask = BitMasks(padded).crop_and_resize(box[None].float(), SIZE)[0].double()
        channel = int(targets.classes[gt]) if logits.shape[1] > 1 else 0
        scores = logits[row, channel].sigmoid()
        size = (scores**2).sum() + gt_mask.sum() + 2e-5
        total += 1 - 2 * float((scores * gt_mask).sum() / size)
    return total


@pytest.mark.parametrize("nums", [[2, 3], [0, 2], [6, 1], [1], [3, 0, 2]])
@pytest.mark.parametrize("mask_channels", [NUM_CLASSES, 1])
def test_set_criterion_gives_weighted_sums_over_the_number_of_matches(nums, mask_channels):
    outputs, mask_logits, matches, targets = make_batch(nums, mask_channels=mask_channels)
    losses = make()(outputs, mask_logits, matches, targets, PADDED)
    normalizer = sum(min(num, NUM_QUERIES) for num in nums) + EPS
    expected = {}
    for stage, (output, logits, match) in enumerate(zip(outputs, mask_logits, matches)):
        l1_total, giou_total = box_sums(output, match, targets)
        expected[f"loss_cls_stage{stage}"] = 2 * class_sum(output, match, targets) / normalizer
        expected[f"loss_box_l1_stage{stage}"] = 5 * l1_total / normalizer
        expected[f"loss_box_giou_stage{stage}"] = 2 * giou_total / normalizer
        total = mask_sum(output, logits, match, targets)
        expected[f"loss_mask_stage{stage}"] = 8 * total / normalizer
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    assert all(loss.shape == () and loss.dtype == torch.float64 for loss in losses.values())


@pytest.mark.parametrize("nums", [[0], [0, 0]])
def test_set_criterion_without_instances_divides_by_one(nums):
    """mmdet 3.3.0 divides by its epsilon alone here, and reports 1e9."""
    outputs, mask_logits, matches, targets = make_batch(nums)
    leaves = [x.requires_grad_() for output in outputs for x in output[:2]]
    leaves += [x.requires_grad_() for x in mask_logits]
    losses = make()(outputs, mask_logits, matches, targets, PADDED)
    for stage, (output, match) in enumerate(zip(outputs, matches)):
        expected = 2 * class_sum(output, match, targets) / (1 + EPS)
        assert losses[f"loss_cls_stage{stage}"].item() == pytest.approx(expected)
        for name in ("box_l1", "box_giou", "mask"):
            assert losses[f"loss_{name}_stage{stage}"].item() == 0
    sum(losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize(
    "key, name, default",
    [
        ("CLASS_WEIGHT", "cls", 2.0),
        ("L1_WEIGHT", "box_l1", 5.0),
        ("GIOU_WEIGHT", "box_giou", 2.0),
        ("DICE_WEIGHT", "mask", 8.0),
    ],
)
def test_set_criterion_scales_each_loss_by_its_own_weight(key, name, default):
    batch = make_batch([2, 1])
    usual = make()(*batch, PADDED)
    scaled = make(**{f"MODEL__QUERYINST__{key}": 3 * default})(*batch, PADDED)
    ratios = {loss: (scaled[loss] / usual[loss]).item() for loss in usual}
    for loss, ratio in ratios.items():
        expected = 3 if loss.startswith(f"loss_{name}_stage") else 1
        assert ratio == pytest.approx(expected), loss


def test_set_criterion_adds_binary_cross_entropy_to_the_mask_losses_alone():
    batch = make_batch([2, 1])
    losses = {}
    for dice, bce in ((8.0, 0.0), (0.0, 3.0), (8.0, 3.0)):
        keys = {"MODEL__QUERYINST__DICE_WEIGHT": dice, "MODEL__QUERYINST__MASK_BCE_WEIGHT": bce}
        losses[dice, bce] = make(**keys)(*batch, PADDED)
    for name, both in losses[8.0, 3.0].items():
        alone = losses[8.0, 0.0][name], losses[0.0, 3.0][name]
        assert both.item() == pytest.approx(
            sum(alone).item() if "mask" in name else alone[0].item()
        )
    outputs, mask_logits, matches, targets = batch
    boxes = outputs[1].boxes.flatten(0, 1)[matches[1].query_idx]
    gt_masks = crop_gt_masks(targets, boxes[None], matches[1:], NUM_QUERIES, PADDED, SIZE)[0]
    channels = mask_logits[1][torch.arange(3), targets.classes[matches[1].gt_idx]]
    expected = binary_cross_entropy_with_logits(channels, gt_masks.double())  # of all three masks
    assert losses[0.0, 3.0]["loss_mask_stage1"].item() == pytest.approx(3 * expected.item())


def test_set_criterion_passes_alpha_and_gamma_to_the_class_loss():
    outputs, _, matches, targets = make_batch([0])
    keys = {"MODEL__QUERYINST__FOCAL_ALPHA": 0.5, "MODEL__QUERYINST__FOCAL_GAMMA": 0.0}
    losses = make(**keys)(outputs, None, matches, targets, PADDED)
    logits = outputs[0].class_logits.flatten().tolist()
    expected = 2 * sum(-0.5 * math.log(1 - sigmoid(x)) for x in logits)
    assert losses["loss_cls_stage0"].item() == pytest.approx(expected)


@pytest.mark.parametrize("num_stages", [1, 3])
def test_set_criterion_of_a_box_detector_has_no_mask_losses(num_stages):
    outputs, _, matches, targets = make_batch([2, 1], num_stages)
    losses = make()(outputs, None, matches, targets._replace(masks=None), PADDED)
    kinds = ("cls", "box_l1", "box_giou")
    assert set(losses) == {f"loss_{k}_stage{s}" for k in kinds for s in range(num_stages)}


@pytest.mark.parametrize(
    "own, total, expected", [(3, 4, 2.0), (3, 3, 1.5), (0, 0, 1.0), (0, 1, 1.0)]
)
def test_set_criterion_averages_the_number_of_matches_over_the_processes(
    own, total, expected, monkeypatch
):
    def all_reduce(number: torch.Tensor) -> None:
        assert number.item() == own
        number.fill_(total)

    batch = make_batch([own])
    alone = make()(*batch, PADDED)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    losses = make()(*batch, PADDED)
    for name, loss in losses.items():
        here = alone[name] * (max(own, 1) + EPS) / (expected + EPS)
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss, here, msg=name)


def test_set_criterion_does_not_see_autocast():
    outputs, mask_logits, matches, targets = make_batch([2, 3])
    outputs = [StageOutput(*(x.float() for x in output)) for output in outputs]
    mask_logits = [x.float() for x in mask_logits]
    targets = targets._replace(boxes=targets.boxes.float(), whwh=targets.whwh.float())
    usual = make()(outputs, mask_logits, matches, targets, PADDED)
    with torch.autocast("cpu", torch.bfloat16):
        cast = make()(outputs, mask_logits, matches, targets, PADDED)
    assert {name: (x.item(), x.dtype) for name, x in cast.items()} == {
        name: (x.item(), torch.float32) for name, x in usual.items()
    }
