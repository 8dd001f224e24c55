"""The formulas and the simulation of docs/scaling.md, and how memory is counted."""

import pytest
import torch
from torch import nn

from dev.scaling import memory
from dev.scaling.communication import LATENCY, ring_seconds
from dev.scaling.memory import Case, Memory, activation_bytes, fixed_bytes, measure_case, row_of
from dev.scaling.simulation import Setup, images_per_second, spread_of_sizes
from queryinst.testing import tiny_cfg

# Two images in half a second, no spread, a loader and a link that cost nothing.
IDEAL = Setup(2, 0.5, 0.0, 4, 1e6, 1e3, 1e15)


def test_ring_seconds_sends_each_byte_twice_but_for_ones_own():
    assert ring_seconds(8e9, 4, 1e9) == pytest.approx(12 + 6 * 320 * LATENCY)
    assert ring_seconds(1e3, 2, 1e3) == pytest.approx(1 + 2 * LATENCY)


@pytest.mark.parametrize("ranks", [1, 8])
def test_images_per_second_of_ideal_ranks_add_up(ranks):
    assert images_per_second(ranks, IDEAL) == pytest.approx(4 * ranks, rel=1e-3)


def test_images_per_second_is_bound_by_the_loader():
    assert images_per_second(8, IDEAL._replace(workers=2, worker_rate=0.5)) == pytest.approx(
        8, 0.02
    )


def test_images_per_second_is_bound_by_the_exchange():
    """A second for a ring of two, of which all but the first of ten buckets can be hidden."""
    slow = IDEAL._replace(gradient_bytes=250e6, bandwidth=250e6)
    step = 0.5 / 3 + 0.5 * 2 / 3 / 10 + ring_seconds(250e6, 2, 250e6)
    assert images_per_second(2, slow) == pytest.approx(4 / step, rel=1e-3)


def test_images_per_second_falls_with_spread_and_ranks():
    spread = IDEAL._replace(spread=0.25)
    shares = [images_per_second(ranks, spread) / ranks / 4 for ranks in (1, 8, 64)]
    assert 0.95 < shares[0] < 1.05 and 0.9 * shares[0] > shares[1] > 1.1 * shares[2]


def test_spread_of_sizes_is_that_of_the_short_sides():
    assert spread_of_sizes((800,), 1) < 0.1 < spread_of_sizes((480, 800), 1)


class Squares(nn.Module):
    """Keeps its input once for two uses, and its weight, which does not count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("buffer", torch.ones(2))

    def forward(self, batch):
        x = self.weight * batch[0]
        return {"loss": (x * x).sum()}


def test_activation_bytes_counts_each_storage_once():
    # The input for the weight's gradient, and x once for both factors.
    assert activation_bytes(Squares(), [torch.ones(10)], tiny_cfg()) == 2 * 40


def test_fixed_bytes_counts_gradients_and_moments_of_what_is_trained():
    assert fixed_bytes(Squares()) == 4 * 40 + 12 + 8


@pytest.mark.parametrize(
    "error, said",
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "out of memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore"), "out of memory"),
        (FloatingPointError("loss is nan\nmore"), "loss is nan"),
    ],
)
def test_measure_case_goes_on_after_a_failure(monkeypatch, error, said):
    def fill(*args):
        raise error

    monkeypatch.setattr(memory, "_fill", fill)
    monkeypatch.setattr(memory, "config_of", lambda *args: None)
    measured = measure_case(Case(100, 1, "fp32"), device="cpu", size=(8, 8))
    assert row_of(measured)[2:] == [said, "-", "-"]


def test_row_of_shows_what_was_measured():
    assert row_of(Memory(fixed=2_760_000_000, activations=10_000_000)) == [
        *("2.76 GB", "0.01 GB", "-", "-", "-")
    ]
    assert row_of(Memory(1, 1, 5 * 10**9, 6 * 10**9, 0.25))[2:] == ["5.00 GB", "6.00 GB", "0.250 s"]
