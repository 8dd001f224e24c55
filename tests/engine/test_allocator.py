"""What a training step frees, the next one finds, or the system gets back."""

import ctypes
import platform
import re
import subprocess
import sys

import pytest

from queryinst.engine import Trainer, allocator
from queryinst.engine.allocator import set_allocator
from queryinst.testing import tiny_cfg

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")

# Prints how many MB of freed tensors stay resident, before and after the setting.
HELD_MB = """
import sys
from pathlib import Path
import torch
from queryinst.engine.allocator import set_allocator
from queryinst.testing import tiny_cfg

millions, recomputes = map(int, sys.argv[1:])

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

def held():
    torch.ones(7 * 2**20)  # freed: from now on glibc keeps what is smaller
    before, living, freed = resident(), [], []
    for _ in range(8):
        freed.append(torch.ones(millions * 2**20))
        living.append(torch.ones(2**14))
    freed.clear()
    return resident() - before

print(held(), end=" ")
parts = ("box_heads",) if recomputes else ()
print(set_allocator(tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=parts)))
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

    for name in allocator._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", Library)
    return told


def run_held(monkeypatch, millions, recomputes):
    for name in allocator._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", HELD_MB, str(millions), str(int(recomputes))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, line, after = re.fullmatch(r"(-?\d+) (.*)\n(-?\d+)\n", done.stdout).groups()
    return int(before), line, int(after)


@needs_glibc
def test_recomputing_freed_tensors_between_living_ones_are_given_back(monkeypatch):
    before, name, after = run_held(monkeypatch, millions=5, recomputes=True)  # 20 MB each
    assert name == "give back"
    assert before > 100, "glibc keeps nothing by itself, so that the setting is of no use"
    assert after < 40


@needs_glibc
def test_otherwise_large_freed_tensors_are_kept(monkeypatch):
    before, name, after = run_held(monkeypatch, millions=10, recomputes=False)  # 40 MB each
    assert name == "keep"
    assert before < 40, "glibc keeps them by itself, so that the setting is of no use"
    assert after > 250


@pytest.mark.parametrize("part", ["backbone", "box_heads", "mask_heads"])
def test_each_kind_of_recomputation_gives_back(settings, part):
    cfg = tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=(part,))
    assert set_allocator(cfg) == "give back"
    assert settings == [(-3, 4 * 2**20), (-1, 64 * 2**20)]


def test_without_recomputation_all_is_kept(settings):
    assert set_allocator(tiny_cfg()) == "keep"
    assert settings == [(-4, 0), (-1, -1)]


def test_other_devices_and_libraries_are_left_alone(settings, monkeypatch):
    assert set_allocator(tiny_cfg(MODEL__DEVICE="cuda")) == ""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert set_allocator(tiny_cfg()) == ""
    assert settings == []


@pytest.mark.parametrize("name", allocator._ENVIRONMENT)
def test_the_environment_takes_precedence(settings, monkeypatch, name):
    monkeypatch.setenv(name, "1000000")
    assert set_allocator(tiny_cfg()) == ""
    assert set_allocator(tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=("backbone",))) == ""
    assert settings == []


def test_a_refused_setting_is_not_claimed(settings, monkeypatch):
    class Library:
        def __init__(self, name):
            self.mallopt = lambda setting, value: 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert set_allocator(tiny_cfg()) == ""


def test_a_trainer_sets_it(monkeypatch, make_cfg):
    seen = []
    monkeypatch.setattr("queryinst.engine.trainer.set_allocator", lambda cfg: seen.append(cfg))
    cfg = make_cfg("MODEL.QUERYINST.ACTIVATION_CHECKPOINTING", "('mask_heads',)")
    Trainer(cfg)
    assert seen == [cfg]
