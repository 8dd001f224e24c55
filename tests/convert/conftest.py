import pytest
import torch
from detectron2.modeling import build_model

from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.testing import tiny_cfg

# Tests of one folder can't import from each other, so what they share comes by fixtures.


@pytest.fixture(scope="session")
def ours():
    """A tiny model's state dict, of random values."""
    state = build_model(tiny_cfg()).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.rand(value.shape, generator=generator) + 0.5
            if value.is_floating_point()
            else torch.full_like(value, 3)
        )
        for name, value in state.items()
    }


@pytest.fixture(scope="session")
def theirs(ours):
    """The same in MMDetection's names."""
    return to_mmdet_state_dict(ours)


@pytest.fixture
def config_file(tmp_path):
    """The configuration of that model, without data sets."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_cfg().dump())
    return str(path)


@pytest.fixture
def assert_holds():
    """Compare a file's state dict with the expected one, bit by bit."""

    def check(state, expected):
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert state[name].dtype == value.dtype and torch.equal(state[name], value), name

    return check
