"""What tests of whole runs share: a model that has learned."""

from typing import NamedTuple

import pytest
import torch
from detectron2.modeling import build_model
from pictures import CONFIG, PICTURES, draw, train
from torch import nn

from queryinst.solver import build_optimizer
from queryinst.testing import tiny_cfg


class Overfitted(NamedTuple):
    """A model that knows `batch` by heart."""

    model: nn.Module
    batch: list[dict]
    before: list[dict]  # what it predicted before
    totals: list[float]  # loss of each step


@pytest.fixture(scope="session")
def overfitted() -> Overfitted:
    torch.manual_seed(0)
    cfg = tiny_cfg(**CONFIG)
    model, batch = build_model(cfg).train(), [draw(number) for number in range(len(PICTURES))]
    with torch.no_grad():
        before = model.eval()(batch)
    totals = train(model.train(), build_optimizer(cfg, model), batch)
    return Overfitted(model.eval(), batch, before, totals)
