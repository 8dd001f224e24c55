"""What a training step on a GPU asks the device for: the matching costs, once, and nothing else.

Without a GPU: torch's fake tensors know devices, shapes and dtypes, but no values, so that whatever
looks at a value of a device raises.
"""

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from queryinst.modeling import QueryInst, matcher
from queryinst.structures import MatchedIndices
from queryinst.testing import random_batch, tiny_cfg


class Transfers(TorchDispatchMode):
    """Notes shape, source and target of every tensor that another device gets."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[tuple[int, ...], str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            self.found.append((tuple(out.shape), args[0].device.type, out.device.type))
        return out

    def since_the_costs(self) -> list[tuple[tuple[int, ...], str, str]]:
        """From the first transfer to the host on."""
        sources = [source for _, source, _ in self.found]
        return self.found[sources.index("cuda") :]


def match_first(cost: torch.Tensor) -> MatchedIndices:
    """Some match of the right size: there are no costs to go by."""
    idx = torch.arange(min(cost.shape))
    return MatchedIndices(idx, idx)


def train_without_values(monkeypatch, nums: tuple[int, ...], **overrides) -> Transfers:
    """The transfers of a forward pass on a GPU that need not be there."""
    monkeypatch.setattr(matcher, "match_queries", match_first)
    batch = random_batch(nums)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = QueryInst(tiny_cfg(MODEL__DEVICE="cuda", **overrides)).train()
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
def test_the_forward_pass_waits_for_the_matching_costs_alone(monkeypatch, overrides):
    found = train_without_values(monkeypatch, (2, 3), **overrides).since_the_costs()
    # of 2 stages, 2 images, 6 queries and up to 3 instances; back come 5 pairs of each stage
    assert found == [((2, 2, 6, 3), "cuda", "cpu"), ((2, 2, 5), "cpu", "cuda")]


def test_a_look_at_the_device_would_be_noticed(monkeypatch):
    """A pooler that asks which RoIs a level has, as Detectron2's does, waits for the answer."""
    monkeypatch.setattr(
        "queryinst.modeling.pooler.RoIFeaturePooler._pool_everywhere",
        lambda self, features, rois, levels: rois[torch.nonzero(levels == 0)[:, 0]],
    )
    with pytest.raises(DynamicOutputShapeException):
        train_without_values(monkeypatch, (2, 3))
