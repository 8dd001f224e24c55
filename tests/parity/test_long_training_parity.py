"""Fifty optimizer steps from equal weights on the same batches, in float64."""

import goldens
import our_runs
import pytest
import torch
from golden_settings import LONG_RATE, LONG_STEPS, long_batches

from queryinst.engine.trainer import Trainer

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def ours(built, weights):
    """All losses (LONG_STEPS,) by name and the parameters at the end."""
    our_runs.set_weights(built, weights, torch.float64)
    cfg = our_runs.zoo_cfg("queryinst_R_50_FPN_1x")
    cfg.SOLVER.BASE_LR = LONG_RATE
    optimizer = Trainer.build_optimizer(cfg, built)
    batches = long_batches()
    losses = {}
    for step in range(LONG_STEPS):
        batch = batches[step % len(batches)]
        record = our_runs.training_run(built, batch.images, batch.objects, torch.float64)
        for key, value in record.items():
            if key.startswith("loss/"):
                losses.setdefault(key, []).append(value)
        optimizer.step()
    record = {key: torch.stack(values) for key, values in losses.items()}
    record.update(goldens.weights_of(built))
    return goldens.sampled(record, "long_training")


@pytest.fixture(scope="module")
def theirs():
    return goldens.load("long_training")


def losses_of(record):
    """(steps, losses)."""
    return torch.stack([record[key][:-1] for key in sorted(record) if key.startswith("loss/")], 1)


def test_long_training_losses_agree_at_every_step(ours, theirs):
    ours, theirs = losses_of(ours), losses_of(theirs)
    assert ours.shape == theirs.shape == (LONG_STEPS, 12)
    assert theirs.min() > 0
    assert ((ours - theirs).abs() / theirs).max() <= TOLERANCE


def test_long_training_parameters_agree_at_the_end(ours, theirs):
    assert sum(key.startswith("parameter/") for key in theirs) > 300
    goldens.check(ours, theirs, TOLERANCE)


def test_long_training_losses_fall(ours):
    total = losses_of(ours).sum(1)
    for batch in (0, 1):
        assert total[batch::2][-5:].mean() < 0.7 * total[batch]
