"""What training with recomputed activations frees, the system gets back."""

import ctypes
import platform
import subprocess
import sys

import pytest

from queryinst.engine import Trainer
from queryinst.engine.allocator import give_back_large_blocks
from queryinst.testing import tiny_cfg

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")

# Prints how many MB of freed tensors stay resident, before and after the setting.
HELD_MB = """
from pathlib import Path
import torch
from queryinst.engine.allocator import give_back_large_blocks
from queryinst.testing import tiny_cfg

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

def held():
    torch.ones(7 * 2**20)  # freed: from now on glibc keeps what is smaller
    before, living, freed = resident(), [], []
    for _ in range(8):
        freed.append(torch.ones(5 * 2**20))  # 20 MB
        living.append(torch.ones(2**14))
    freed.clear()
    return resident() - before

print(held(), end=" ")
assert give_back_large_blocks(tiny_cfg(MODEL__QUERYINST__CHECKPOINT_BOX_HEADS=True))
print(held())
"""


@pytest.fixture
def settings(monkeypatch):
    """What the C library is told, instead of telling it."""
    told = []

    class Library:
        def __init__(self, name):
            pass

        @staticmethod
        def mallopt(setting, value):
            told.append((setting, value))
            return 1

    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", Library)
    return told


@needs_glibc
def test_freed_tensors_between_living_ones_are_given_back(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    done = subprocess.run([sys.executable, "-c", HELD_MB], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 100, "glibc keeps nothing by itself, so that the setting is of no use"
    assert after < 40


@pytest.mark.parametrize("part", ["BACKBONE", "BOX_HEADS", "MASK_HEADS"])
def test_each_kind_of_recomputation_sets_it(settings, part):
    assert give_back_large_blocks(tiny_cfg(**{f"MODEL__QUERYINST__CHECKPOINT_{part}": True}))
    assert settings == [(-3, 4 * 2**20), (-1, 64 * 2**20)]


def test_others_are_left_alone(settings, monkeypatch):
    recomputes = {"MODEL__QUERYINST__CHECKPOINT_BACKBONE": True}
    assert not give_back_large_blocks(tiny_cfg())
    assert not give_back_large_blocks(tiny_cfg(**recomputes, MODEL__DEVICE="cuda"))
    with monkeypatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
        assert not give_back_large_blocks(tiny_cfg(**recomputes))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not give_back_large_blocks(tiny_cfg(**recomputes))
    assert settings == []


def test_a_trainer_sets_it(monkeypatch, make_cfg):
    seen = []
    monkeypatch.setattr(
        "queryinst.engine.trainer.give_back_large_blocks", lambda cfg: seen.append(cfg)
    )
    cfg = make_cfg("MODEL.QUERYINST.CHECKPOINT_MASK_HEADS", "True")
    Trainer(cfg)
    assert seen == [cfg]
