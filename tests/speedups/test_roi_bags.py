"""Gradients that all poolings of a map leave to one buffer, against those of torchvision."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch.utils.checkpoint import checkpoint

from queryinst.modeling.pooler import RoIFeaturePooler, pool_levels, to_rois
from queryinst.speedups.roi_align_bag import BagPooling
from queryinst.speedups.roi_bags import collect_gradients

SCALES = (1 / 4, 1 / 8)


def make(size: int, cls=RoIFeaturePooler):
    pooler = cls(output_size=size, scales=SCALES, sampling_ratio=2, pooler_type="ROIAlignV2")
    pooler.pool_levels = BagPooling(pool_levels)
    return pooler


def make_features() -> list[torch.Tensor]:
    """Of two images of 64 x 96 pixels."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 16, 24), (2, 3, 8, 12)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def make_boxes(num: int, seed: int) -> list[torch.Tensor]:
    """`num` for each image; of both levels, some across the border."""
    unit = torch.rand(2, num, 4, generator=torch.Generator().manual_seed(seed)).double()
    corner = unit[..., :2] * 80 - 10
    return list(torch.cat([corner, corner + 4 + unit[..., 2:] * 200], dim=-1))


SETS = [(2, 9, 1), (2, 5, 2), (3, 4, 3), (3, 0, 4)]  # bins a side, RoIs an image, seed


def loss_of(features, cls=RoIFeaturePooler, sets=SETS) -> torch.Tensor:
    """Poolings one after the other, each weighted at random; not linear in what is pooled."""
    total = torch.zeros(()).double()
    for size, num, seed in sets:
        boxes = make_boxes(num, seed)
        if cls is ROIPooler:
            pooled = make(size, cls)(features, [Boxes(b) for b in boxes])
        else:
            image_idx = torch.arange(2).repeat_interleave(num)
            pooled = make(size)(features, to_rois(torch.cat(boxes), image_idx))
        factors = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).double()
        total = total + (pooled.square() * factors).sum()
    return total


def expected_gradients() -> list[torch.Tensor]:
    """Of pooling level by level and call by call, without collecting."""
    features = make_features()
    return list(torch.autograd.grad(loss_of(features), features))


def collected() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    features = make_features()
    return features, [collect_gradients(x) for x in features]


def assert_equal(ours, expected) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_collect_gradients_gives_one_buffer_what_separate_calls_get():
    features, shared = collected()
    loss = loss_of(shared)
    assert loss.item() == loss_of(make_features()).item()
    assert_equal(torch.autograd.grad(loss, features), expected_gradients())


def test_pool_bags_has_torchvisions_gradients():
    theirs = [x.float().detach().requires_grad_() for x in make_features()]  # it rounds boxes
    expected = torch.autograd.grad(loss_of(theirs, ROIPooler), theirs)
    for one, other in zip(expected_gradients(), expected):
        torch.testing.assert_close(one.float(), other, rtol=1e-3, atol=1e-3)


def test_collect_gradients_gives_a_second_backward_pass_the_same():
    features, shared = collected()
    loss = loss_of(shared)
    loss.backward(retain_graph=True)
    loss.backward()
    assert_equal([x.grad / 2 for x in features], expected_gradients())


def test_collect_gradients_does_not_mix_forward_passes():
    features, shared = collected()
    first, second = loss_of(shared, sets=SETS[:1]), loss_of(shared, sets=SETS[1:])
    again = loss_of([collect_gradients(x) for x in features])
    parts = [torch.autograd.grad(loss, features) for loss in (second, first)]
    assert_equal([a + b for a, b in zip(*parts)], expected_gradients())
    assert_equal(torch.autograd.grad(again, features), expected_gradients())


def test_collect_gradients_adds_other_uses_of_the_features():
    features, shared = collected()
    loss = loss_of(shared) + sum((x * 3).sum() for x in shared)
    expected = [grad + 3 for grad in expected_gradients()]
    assert_equal(torch.autograd.grad(loss, features), expected)


def test_collect_gradients_leaves_a_level_that_needs_no_gradient():
    features = make_features()
    features[0].requires_grad_(False)
    loss_of([collect_gradients(x) for x in features]).backward()
    assert features[0].grad is None
    assert_equal([features[1].grad], expected_gradients()[1:])


class Failing(torch.autograd.Function):
    """The identity; its backward pass raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("on purpose")


def test_collect_gradients_leaves_nothing_of_a_failed_backward_pass():
    features, shared = collected()
    fails = Failing.apply(features[0]).sum()  # older than the poolings, so that it runs after them
    loss = loss_of(shared)
    with pytest.raises(RuntimeError, match="on purpose"):
        (fails + loss).backward(retain_graph=True)
    assert shared[0].grad_fn.collected, "the poolings did not run, which proves nothing"
    assert_equal(torch.autograd.grad(loss, features), expected_gradients())


def test_collect_gradients_wraps_nothing_without_gradients():
    features = make_features()
    with torch.no_grad():
        assert collect_gradients(features[0]) is features[0]
        assert not loss_of(features).requires_grad
    plain = features[0].detach()
    assert collect_gradients(plain) is plain


@pytest.mark.parametrize("reentrant", [False, True])
def test_collect_gradients_with_activation_checkpointing_gives_the_same(reentrant):
    features, shared = collected()
    loss = checkpoint(lambda *x: loss_of(list(x)), *shared, use_reentrant=reentrant)
    loss.backward()
    assert_equal([x.grad for x in features], expected_gradients())


def test_collect_gradients_passes_gradcheck():
    rois = torch.tensor([[0, 1.0, 2.0, 13.0, 11.0], [0, -30.0, -2.0, 190.0, 120.0]]).double()
    pooler = make(2)

    def pool_twice(*levels):
        shared = [collect_gradients(x) for x in levels]
        return pooler(shared, rois), pooler(shared, rois.flip(0)).square()

    features = [x.detach()[:1, :1, :4, :4].contiguous().requires_grad_() for x in make_features()]
    assert torch.autograd.gradcheck(pool_twice, features)


def test_collect_gradients_without_rois_gives_zeros():
    features, shared = collected()
    loss = loss_of(shared, sets=SETS[3:])  # of no RoIs
    assert_equal(torch.autograd.grad(loss, features), [torch.zeros_like(x) for x in features])
