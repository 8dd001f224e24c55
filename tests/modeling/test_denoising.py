"""Denoising queries: where they start, that they are groups of their own, and what they add."""

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from queryinst import QueryInst
from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.engine.steps import describe_batch
from queryinst.modeling.denoising import DenoisingQueries, repeat_targets
from queryinst.modeling.targets import batch_targets
from queryinst.structures import BatchTargets
from queryinst.testing import random_batch, random_instances, spread_queries, tiny_cfg


def targets_of(*nums: int, width: int = 96, height: int = 64) -> BatchTargets:
    instances = [random_instances(num, height, width, seed=seed) for seed, num in enumerate(nums)]
    whwh = torch.tensor([[width, height, width, height]] * len(nums)).float()
    return batch_targets(instances, whwh, with_masks=True)


def denoising(num_groups: int = 2, num_queries: int = 4, noise: float = 0.5, weight: float = 1.0):
    return DenoisingQueries(
        num_groups=num_groups, num_queries=num_queries, noise=noise, weight=weight
    )


def build(seed: int = 0, **keys) -> QueryInst:
    keys = {f"MODEL__QUERYINST__{key}": value for key, value in keys.items()}
    cfg = tiny_cfg(MODEL__QUERYINST__SPEEDUPS=(), **keys)
    torch.manual_seed(seed)
    model = QueryInst(cfg)
    spread_queries(model)
    return model


def losses_of(model: QueryInst, batch: list[dict], *args) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    with EventStorage():
        return model.train()(batch, *args)


def test_boxes_without_noise_are_the_objects_and_random_ones():
    targets = targets_of(3, 0, 1)
    boxes = denoising(noise=0.0, num_queries=4).boxes(targets)
    assert boxes.shape == (3, 4, 4)
    starts = boxes.split(1), targets.boxes.split(targets.num_per_image)
    for row, objects in zip(*starts):
        started = {tuple(box.round().int().tolist()) for box in row[0, : len(objects)]}
        assert started == {tuple(box.int().tolist()) for box in objects}
        rest = row[0, len(objects) :]
        sides = (rest[:, 2:] - rest[:, :2]) / torch.tensor([96, 64])
        center = (rest[:, 2:] + rest[:, :2]) / 2 / torch.tensor([96, 64])
        assert ((sides >= 0.1) & (sides <= 0.5)).all() and ((center >= 0) & (center <= 1)).all()


def test_boxes_move_and_scale_by_at_most_the_noise():
    targets = repeat_targets(targets_of(1), 500)
    boxes = denoising(noise=0.5, num_queries=1).boxes(targets)[:, 0]
    size, gt_size = (x[:, 2:] - x[:, :2] for x in (boxes, targets.boxes))
    shift = (boxes[:, 2:] + boxes[:, :2] - targets.boxes[:, 2:] - targets.boxes[:, :2]) / 2
    moved, scaled = shift / gt_size, (size / gt_size).log2()
    for values, most in ((moved, 0.25), (scaled, 0.5)):
        assert values.abs().max() <= most + 1e-5
        assert values.min() < -0.9 * most and values.max() > 0.9 * most


def test_boxes_of_more_objects_than_queries_are_of_any_of_them():
    targets = repeat_targets(targets_of(5), 100)
    boxes = denoising(noise=0.0, num_queries=2).boxes(targets)
    objects = [tuple(box) for box in targets.boxes[:5].tolist()]
    chosen = [
        {min(range(5), key=lambda i: abs(torch.tensor(objects[i]) - box).sum()) for box in row}
        for row in boxes
    ]
    assert all(len(pair) == 2 for pair in chosen)
    assert set().union(*chosen) == set(range(5))


def test_query_feats_are_different_learned_ones_in_each_row():
    learned = torch.randn(6, 3)
    feats = denoising(num_queries=4).query_feats(learned, 20)
    rows = [[int((learned == query).all(1).nonzero()) for query in row] for row in feats]
    assert all(len(set(row)) == 4 for row in rows) and set(sum(rows, [])) == set(range(6))


def test_repeat_targets_keeps_images_together():
    targets = targets_of(2, 1)
    repeated = repeat_targets(targets, 2)
    boxes = targets.boxes
    assert repeated.num_per_image == [2, 2, 1, 1]
    assert torch.equal(repeated.boxes, torch.cat([boxes[:2], boxes[:2], boxes[2:], boxes[2:]]))
    assert repeated.classes.tolist() == targets.classes[[0, 1, 0, 1, 2, 2]].tolist()
    assert [len(masks) for masks in repeated.masks] == [2, 2, 1, 1]
    assert isinstance(repeated.masks[0], BitMasks) and repeated.whwh.shape == (4, 4)


def test_groups_equal_images_of_their_own():
    model = build()
    features = [torch.randn(2, 16, 32 // 2**level, 48 // 2**level) for level in range(4)]
    targets = repeat_targets(targets_of(2, 3), 3)
    boxes, feats = denoising().boxes(targets), torch.randn(6, 4, 16)
    matches = model.matcher(model.cascade(features, boxes, feats, 3), targets)
    repeated = [x.repeat_interleave(3, dim=0) for x in features]
    for levels, num_groups in ((features, 3), (repeated, 1)):
        outputs = model.cascade(levels, boxes, feats, num_groups)
        logits = model.mask_head.eval()(levels, outputs, matches, num_groups)
        if num_groups == 3:
            grouped = [*(x for output in outputs for x in output), *logits]
    separate = [*(x for output in outputs for x in output), *logits]
    for first, second in zip(grouped, separate, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_the_real_queries_see_nothing_of_it():
    batch = random_batch((2, 3))
    plain, denoised = build(), build(DENOISING_GROUPS=2)
    assert list(plain.state_dict()) == list(denoised.state_dict())
    with torch.no_grad():
        expected = plain.eval()(batch)
        result = denoised.eval()(batch)
    for one, two in zip(expected, result):
        assert torch.equal(one["instances"].scores, two["instances"].scores)
    expected, losses = losses_of(plain, batch), losses_of(denoised, batch)
    assert {name: losses[name].item() for name in expected} == {
        name: loss.item() for name, loss in expected.items()
    }
    more = losses.keys() - expected.keys()
    assert more == {name.replace("loss", "loss_denoising") for name in expected}


def test_losses_do_not_change_with_the_truth_but_where_they_compare_with_it():
    model = build(DENOISING_GROUPS=1).eval()
    outputs = []
    hook = model.cascade.register_forward_hook(lambda *call: outputs.append(call[-1]))
    for nums in ((2, 3), (1, 4)):
        losses_of(model, random_batch(nums, seed=3))
    hook.remove()
    for first, second in zip(outputs[0], outputs[2], strict=True):  # of the real queries
        assert all(map(torch.equal, first, second))
    assert not torch.equal(outputs[1][0].class_logits, outputs[3][0].class_logits)


def test_weight_multiplies_the_losses():
    batch = random_batch((2, 3))
    once, twice = (
        losses_of(build(DENOISING_GROUPS=1, DENOISING_WEIGHT=weight), batch)
        for weight in (1.0, 2.0)
    )
    for name in once:
        factor = 2 if "denoising" in name else 1
        assert twice[name].item() == pytest.approx(factor * once[name].item())


@pytest.mark.parametrize("nums", [(1, 1), (1, 3), (2, 0)])
def test_losses_of_parts_add_up_to_those_of_the_batch(nums, monkeypatch):
    """With one query that starts at no random place, although there may be more objects."""
    keys = {"DENOISING_GROUPS": 2, "DENOISING_QUERIES": 1, "NUM_QUERIES": 1}
    start = torch.tensor([[10.0, 10.0, 60.0, 50.0]])
    monkeypatch.setattr(
        DenoisingQueries, "boxes", lambda _, targets: start.expand(len(targets.whwh), 1, 4)
    )
    model = build(**keys)
    model.mask_head.stages.requires_grad_(False)
    batch = random_batch(nums)
    model.train()
    model.mask_head.eval()
    train, model.train = model.train, lambda: model  # keeps the batch norms as they are
    whole = losses_of(model, batch)
    parts = [losses_of(model, [x], describe_batch(batch)) for x in batch]
    model.train = train
    for name, loss in whole.items():
        assert sum(part[name] for part in parts).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("nums", [(0, 0), (0, 2)])
def test_losses_of_images_without_objects_are_finite(nums):
    model = build(DENOISING_GROUPS=2)
    losses = losses_of(model, random_batch(nums))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_cost_that_is_not_finite_names_the_image_not_the_row():
    model = build(DENOISING_GROUPS=3)
    targets = repeat_targets(targets_of(1, 2), 3)
    outputs = model.cascade(
        [torch.randn(2, 16, 32 // 2**level, 48 // 2**level) for level in range(4)],
        denoising().boxes(targets),
        torch.randn(6, 4, 16),
        3,
    )
    outputs[1].boxes[4] = float("nan")
    with pytest.raises(FloatingPointError, match="stage 1, image 1: "):
        model.matcher(outputs, targets)


@pytest.mark.parametrize(
    "overrides",
    [
        {"MODEL__MASK_ON": False},
        {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True},
        {"MODEL__QUERYINST__NUM_QUERIES": 2},
    ],
)
def test_losses_of_other_models_have_gradients(overrides):
    cfg = tiny_cfg(
        MODEL__QUERYINST__DENOISING_GROUPS=2, MODEL__QUERYINST__MASK_BCE_WEIGHT=2.0, **overrides
    )
    model = QueryInst(cfg)
    losses = losses_of(model, random_batch((4, 3)))
    sum(losses.values()).backward()
    assert ("loss_denoising_mask_stage0" in losses) == cfg.MODEL.MASK_ON
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_checkpoint_without_denoising_loads_into_a_model_with_it(tmp_path):
    torch.save({"model": build(seed=1).state_dict()}, tmp_path / "plain.pth")
    model = build(seed=2, DENOISING_GROUPS=2, INITIAL_GRID_SIZES=(0.3,), NMS_THRESH_TEST=0.7)
    QueryInstCheckpointer(model).load(str(tmp_path / "plain.pth"))
    expected = build(seed=1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_denoising_queries_are_at_most_the_learned_ones():
    cfg = tiny_cfg(MODEL__QUERYINST__DENOISING_QUERIES=50, MODEL__QUERYINST__NUM_QUERIES=6)
    assert DenoisingQueries(cfg).num_queries == 6
