"""Batches in parts against whole ones."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.engine.steps import StepTrainer, split_batch
from queryinst.solver import build_optimizer
from queryinst.testing import random_batch, tiny_cfg

GN = {"MODEL__ROI_MASK_HEAD__NORM": "GN", "MODEL__ROI_MASK_HEAD__CONV_DIM": 32}


def make_batch() -> list[dict]:
    """Five images: without instances, with more than there are queries, and of two sizes."""
    batch = random_batch((0, 3, 9), 64, 96)
    return batch + random_batch((1, 2), 90, 64, seed=7)


def one_step(num_parts: int, batch: list[dict], **overrides) -> dict[str, torch.Tensor]:
    """What is logged, the gradients and the parameters after one step, by name."""
    cfg = tiny_cfg(SOLVER__ACCUMULATE_STEPS=num_parts, **overrides)
    torch.manual_seed(0)
    model = build_model(cfg).double()
    sizes = torch.tensor([0.3, 0.8, 0.2, 0.5, 0.7, 1.0])
    model.initial_queries.boxes_cxcywh_norm.data[:, 2:] = sizes[:, None]
    trainer = StepTrainer(model, [batch], build_optimizer(cfg, model), cfg)
    with EventStorage() as storage:
        trainer.iter = 0
        trainer.run_step()
        values = {name: torch.tensor(value[0]) for name, value in storage.latest().items()}
    values = {name: x for name, x in values.items() if "time" not in name}
    values |= {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return values | {f"after {name}": p.detach() for name, p in model.named_parameters()}


def assert_equal(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("num_parts", [2, 5])
def test_accumulate_adds_parts_up_to_the_whole(num_parts):
    batch = make_batch()
    expected = one_step(1, batch, **GN)
    assert expected["queryinst/num_matched"] == 0 + 3 + 6 + 1 + 2
    assert_equal(one_step(num_parts, batch, **GN), expected)


def test_accumulate_of_a_box_detector():
    off = {"MODEL__MASK_ON": False}
    assert_equal(one_step(3, make_batch(), **off), one_step(1, make_batch(), **off))


def test_accumulate_of_a_batch_without_instances():
    batch = random_batch((0, 0))
    assert_equal(one_step(2, batch, **GN), one_step(1, batch, **GN))


def test_accumulate_lets_batch_norms_see_their_own_part():
    """Box heads do not: their gradients differ only by what the masks send to the queries."""
    batch = random_batch((3, 3))
    actual, expected = one_step(2, batch), one_step(1, batch)
    for name in ("loss_cls_stage0", "loss_box_l1_stage0", "loss_box_giou_stage1"):
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=0)
    assert abs(actual["loss_mask_stage0"] - expected["loss_mask_stage0"]) > 1e-6


@pytest.mark.parametrize(
    "num_images, num_parts, sizes",
    [(4, 2, [2, 2]), (5, 2, [2, 3]), (5, 3, [1, 2, 2]), (2, 2, [1, 1]), (1, 3, [1])],
)
def test_split_batch_gives_parts_of_like_size_in_order(num_images, num_parts, sizes):
    batch = [{"image_id": i} for i in range(num_images)]
    parts = split_batch(batch, num_parts)
    assert [len(part) for part in parts] == sizes
    assert sum(parts, []) == batch


def test_accumulate_exchanges_gradients_once(monkeypatch):
    """In the last part; DistributedDataParallel itself needs several processes."""
    from queryinst.engine import steps

    syncs: list[bool] = []
    is_in = []

    class Context:
        def __enter__(self):
            is_in.append(self)

        def __exit__(self, *error):
            is_in.pop()

    class Model(nn.Linear):
        def forward(self, batch, whole):
            syncs.append(not is_in)
            return {"loss": super().forward(torch.ones(1)).sum() * len(batch) / 4}

    monkeypatch.setattr(steps, "without_sync", lambda model: Context())
    model = Model(1, 1)
    cfg = tiny_cfg(SOLVER__ACCUMULATE_STEPS=3)
    trainer = StepTrainer(model, [random_batch((1, 1, 1, 1))], build_optimizer(cfg, model), cfg)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    assert syncs == [False, False, True]
    assert model.bias.grad.item() == pytest.approx(1.0)
