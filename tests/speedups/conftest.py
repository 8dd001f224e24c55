"""What shows that a speed-up takes part, or that it does not."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from queryinst import speedups
from queryinst.speedups import conv2d_im2col, conv2d_weight_grad, lazy_fpn, winograd

FOLDER = str(Path(speedups.__file__).parent)


@contextmanager
def _count_entries() -> Iterator[Counter]:
    counts: Counter = Counter()

    def note(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(FOLDER):
            name = Path(frame.f_code.co_filename).stem
            counts[f"{name}.{frame.f_code.co_qualname}"] += 1

    sys.setprofile(note)
    try:
        yield counts
    finally:
        sys.setprofile(None)


@pytest.fixture
def entries() -> Callable[[], AbstractContextManager[Counter]]:
    """Counts calls of all functions of the folder `speedups`, as file.function, within a context.

    Backward passes on the CPU run in the thread that asks for them, so it sees them too.
    """
    return _count_entries


@pytest.fixture
def small_ones_too(monkeypatch):
    """Speed-ups take part in the smallest model, each in the share of it that it is meant for."""
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(conv2d_weight_grad, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(conv2d_weight_grad, "MIN_PIXELS", 0)
    monkeypatch.setattr(conv2d_im2col, "MIN_WEIGHTS", 0)
    monkeypatch.setattr(conv2d_im2col, "MAX_PIXELS", 48)
    monkeypatch.setattr(lazy_fpn, "PIXELS_PER_BIN", 0.0)
