"""What a training step on a GPU asks the device for: the matching costs, once, and nothing else.

Without a GPU: torch's fake tensors know devices, shapes and dtypes, but no values, so that whatever
looks at a value of a device raises.
"""

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from queryinst.build import build_queryinst
from queryinst.modeling import matcher
from queryinst.modeling.pooler import pool_levels
from queryinst.speedups import SPEEDUPS
from queryinst.speedups import sync_free_pooling as module
from queryinst.speedups.sync_free_pooling import SyncFreePooling
from queryinst.structures import MatchedIndices
from queryinst.testing import random_batch, tiny_cfg

ALL = tuple(row.name for row in SPEEDUPS)


class Transfers(TorchDispatchMode):
    """Notes shape, source and target of every tensor that another device gets."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            self.seen.append((tuple(out.shape), args[0].device.type, out.device.type))
        return out

    def since_the_costs(self) -> list[tuple[tuple[int, ...], str, str]]:
        """From the first transfer to the host on."""
        sources = [source for _, source, _ in self.seen]
        return self.seen[sources.index("cuda") :]


def match_first(cost: torch.Tensor) -> MatchedIndices:
    """Some match of the right size: there are no costs to go by."""
    idx = torch.arange(min(cost.shape))
    return MatchedIndices(idx, idx)


def train_without_values(monkeypatch, nums: tuple[int, ...], names, **overrides) -> Transfers:
    """The transfers of a forward pass on a GPU that need not be there."""
    monkeypatch.setattr(matcher, "match_queries", match_first)
    batch = random_batch(nums)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        cfg = tiny_cfg(MODEL__DEVICE="cuda", MODEL__QUERYINST__SPEEDUPS=names, **overrides)
        model = build_queryinst(cfg).train()
        images = ImageList(torch.zeros(len(nums), 3, 64, 96), [(64, 96)] * len(nums))
        monkeypatch.setattr(model, "preprocess_image", lambda *args: images)  # is sent before
        transfers = Transfers()
        with torch.device("cpu"), transfers, EventStorage(0):
            losses = model(batch)
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
    return transfers


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"MODEL__MASK_ON": False},
        {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True},
        {"MODEL__QUERYINST__ACTIVATION_CHECKPOINTING": ("box_heads",)},
    ],
)
@pytest.mark.parametrize("names", [("sync_free_pooling",), ("auto",), ALL])
def test_SyncFreePooling_lets_the_forward_pass_wait_for_the_matching_costs_alone(
    monkeypatch, overrides, names
):
    seen = train_without_values(monkeypatch, (2, 3), names, **overrides).since_the_costs()
    # of 2 stages, 2 images, 6 queries and up to 3 instances; back come 5 pairs of each stage
    assert seen == [((2, 2, 6, 3), "cuda", "cpu"), ((2, 2, 5), "cpu", "cuda")]


@pytest.mark.parametrize("names", [(), tuple(n for n in ALL if n != "sync_free_pooling")])
def test_a_look_at_the_device_would_be_noticed(monkeypatch, names):
    """The plain pooler asks which RoIs a level has, and waits for the answer."""
    with pytest.raises(DynamicOutputShapeException):
        train_without_values(monkeypatch, (2, 3), names)


def test_SyncFreePooling_pools_what_the_plain_pooler_does(monkeypatch):
    monkeypatch.setattr(module, "has_to_wait", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    aligns = torch.nn.ModuleList([ROIAlign((3, 2), 0.25 / 2**i, 2) for i in range(2)])
    sizes = [(12, 17), (6, 9)]
    features = [torch.randn(2, 3, *size, generator=generator).double() for size in sizes]
    features = [x.requires_grad_() for x in features]
    for num in (9, 1, 0):
        boxes = torch.rand(num, 4, generator=generator).double() * 90 - 20
        rois = torch.cat([torch.arange(num)[:, None] % 2, boxes], dim=1)
        levels = torch.arange(num) % 3 - 1  # -1: of none
        ours = SyncFreePooling(pytest.fail)(aligns, features, rois, levels)
        theirs = pool_levels(aligns, features, rois, levels)
        assert ours.shape == (num, 3, 3, 2)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        grad = torch.randn(ours.shape, generator=generator).double()
        pairs = [torch.autograd.grad(pooled, features, grad) for pooled in (ours, theirs)]
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device, traced", [("cpu", False), ("meta", True)])
def test_SyncFreePooling_leaves_the_cpu_and_tracers_to_the_plain_pooler(
    monkeypatch, device, traced
):
    monkeypatch.setattr(module, "is_traced", lambda: traced)
    args = (torch.nn.ModuleList(), [], torch.zeros(0, 5, device=device), None)
    assert SyncFreePooling(lambda *args: args)(*args) == args
