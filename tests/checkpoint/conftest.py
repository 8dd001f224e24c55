import copy
import functools
import logging

import pytest
import torch
from detectron2.modeling import build_model

from queryinst.testing import tiny_cfg


@functools.cache
def _built(overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**dict(overrides)))


def _make(seed=0, **overrides):
    model = copy.deepcopy(_built(tuple(sorted(overrides.items()))))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.fill_(seed)
    return model if model.inference_only else model.train()


@pytest.fixture
def make_model():
    """Tiny models in training mode; `seed` changes every parameter and buffer."""
    return _make


@pytest.fixture
def messages(caplog, monkeypatch):
    """The lines that were logged, in a list, also if another test has set the logger up."""
    modules = ("checkpointer", "foreign_state_dicts")
    names = [f"queryinst.checkpoint.{module}" for module in modules]
    for name in ("queryinst", "queryinst.checkpoint", *names):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO, logger="queryinst")
    return lambda word: [r.getMessage() for r in caplog.records if word in r.getMessage()]


@pytest.fixture
def snapshot():
    """A function that tells which tensors of a model differ from a copy taken before."""

    def take(model):
        before = {name: value.clone() for name, value in model.state_dict().items()}

        def changed():
            after = model.state_dict()
            return {name for name, value in before.items() if not torch.equal(value, after[name])}

        return changed

    return take
