"""Training steps that compute activations twice, against those that keep them."""

import copy
import pickle

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.modeling import QueryInst, activation_checkpointing
from queryinst.testing import random_batch, tiny_cfg

PARTS = ("backbone", "box_heads", "mask_heads")
FROM_SCRATCH = {"MODEL__BACKBONE__FREEZE_AT": 0, "MODEL__BACKBONE__NORM_EVAL": False}


def make(*parts: str, **overrides) -> nn.Module:
    keys = {"MODEL__QUERYINST__ACTIVATION_CHECKPOINTING": parts}
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg(**keys, **overrides)).double().train()
    sizes = torch.tensor([0.3, 0.8, 2.0, 4.0, 8.0, 1.0]) / 4
    model.initial_queries.boxes_cxcywh_norm.data[:, 2:] = sizes[:, None]
    return model


def step(model: nn.Module, nums=(2, 3)) -> dict[str, torch.Tensor]:
    """Losses, gradients and what else the step leaves, by name."""
    torch.manual_seed(1)
    with EventStorage(0):
        losses = model(random_batch(nums))
    sum(losses.values()).backward()
    values = {name: loss.detach() for name, loss in losses.items()}
    values |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return values | dict(model.named_buffers())


def assert_equal(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-12, msg=name)


WITH_DROPOUT = {"MODEL__QUERYINST__DROPOUT": 0.5}
WITH_DENOISING = {"MODEL__QUERYINST__DENOISING_GROUPS": 2}


@pytest.mark.parametrize(
    "parts, overrides",
    [((part,), FROM_SCRATCH) for part in PARTS]
    + [(PARTS, overrides) for overrides in ({}, WITH_DROPOUT, WITH_DENOISING)],
)
def test_activation_checkpointing_keeps_losses_gradients_and_statistics(parts, overrides):
    expected, actual = make(**overrides), make(*parts, **overrides)
    assert list(actual.state_dict()) == list(expected.state_dict())
    for _ in range(2):
        assert_equal(step(actual), step(expected))


def test_activation_checkpointing_without_instances():
    assert_equal(step(make(*PARTS), (0, 0)), step(make(), (0, 0)))


@pytest.mark.parametrize("part", PARTS)
def test_activation_checkpointing_keeps_less(part):
    def bytes_kept(model) -> int:
        kept = {}

        def keep(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with EventStorage(0), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            losses = model(random_batch((2, 3)))
        del losses
        return sum(kept.values())

    assert bytes_kept(make(part, **FROM_SCRATCH)) < 0.93 * bytes_kept(make(**FROM_SCRATCH))


@pytest.mark.parametrize("part", PARTS)
def test_activation_checkpointing_runs_each_part_twice(part, monkeypatch):
    runs = []
    original = activation_checkpointing._keep_buffers

    def count(module):
        runs.append(type(module).__name__)
        return original(module)

    monkeypatch.setattr(activation_checkpointing, "_keep_buffers", count)
    step(make(part))
    names = {"backbone": "Sequential", "box_heads": "DynamicBoxHead"}
    expected = [names.get(part, "DynamicMaskHead")] * (3 if part == "backbone" else 2)
    assert runs == expected  # res2 is frozen


def test_inference_is_the_same_with_activation_checkpointing():
    actual, expected = make(*PARTS).eval(), make().eval()
    batch = random_batch((0, 0))
    with torch.no_grad():
        for one, other in zip(actual(batch), expected(batch), strict=True):
            one, other = one["instances"], other["instances"]
            torch.testing.assert_close(one.scores, other.scores)
            assert torch.equal(one.pred_masks, other.pred_masks)


def test_checkpoint_module_can_be_copied_and_pickled():
    model = make(*PARTS)
    expected = step(copy.deepcopy(model))
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.backbone.bottom_up.res4[0].conv1.weight)  # not the twin's
    assert_equal(step(twin), expected)
    head = twin.mask_head.stages[0]
    again = pickle.loads(pickle.dumps(head))
    assert again.forward.module is again


def test_checkpoint_backbone_names_a_bottom_up_without_stages():
    with pytest.raises(
        ValueError,
        match="Linear has no stages .*remove 'backbone' from .*ACTIVATION_CHECKPOINTING",
    ):
        activation_checkpointing.checkpoint_backbone(nn.Linear(2, 2))
