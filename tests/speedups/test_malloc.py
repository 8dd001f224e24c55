"""What a training step frees, the next one finds, or the system gets back."""

import ctypes
import platform
import re
import subprocess
import sys

import pytest

from queryinst.build import build_queryinst
from queryinst.engine import Trainer, train_net
from queryinst.speedups import malloc, speed_up_process
from queryinst.speedups.malloc import apply_to_process  # before tests/conftest.py replaces it
from queryinst.testing import tiny_cfg

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")

# Prints how many MB of freed tensors stay resident, before and after the setting.
HELD_MB = """
import sys
from pathlib import Path
import torch
from queryinst.speedups.malloc import apply_to_process
from queryinst.testing import tiny_cfg

millions, checkpointing = map(int, sys.argv[1:])

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
parts = ("box_heads",) if checkpointing else ()
print(apply_to_process(tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=parts)))
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

    for name in malloc._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", Library)
    return told


def run_held(monkeypatch, millions, checkpointing):
    for name in malloc._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", HELD_MB, str(millions), str(int(checkpointing))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, line, after = re.fullmatch(r"(-?\d+) (.*)\n(-?\d+)\n", done.stdout).groups()
    return int(before), line, int(after)


@needs_glibc
def test_apply_to_process_with_activation_checkpointing_gives_back_freed_tensors(monkeypatch):
    before, name, after = run_held(monkeypatch, millions=5, checkpointing=True)  # 20 MB each
    assert name == "give back"
    assert before > 100, "glibc keeps nothing by itself, so that the setting is of no use"
    assert after < 40


@needs_glibc
def test_apply_to_process_keeps_large_freed_tensors_otherwise(monkeypatch):
    before, name, after = run_held(monkeypatch, millions=10, checkpointing=False)  # 40 MB each
    assert name == "keep"
    assert before < 40, "glibc keeps them by itself, so that the setting is of no use"
    assert after > 250


@pytest.mark.parametrize("part", ["backbone", "box_heads", "mask_heads"])
def test_apply_to_process_gives_back_for_each_kind_of_activation_checkpointing(settings, part):
    cfg = tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=(part,))
    assert apply_to_process(cfg) == "give back"
    assert settings == [(-3, 4 * 2**20), (-1, 64 * 2**20)]


def test_apply_to_process_keeps_all_without_activation_checkpointing(settings):
    assert apply_to_process(tiny_cfg()) == "keep"
    assert settings == [(-4, 0), (-1, -1)]


def test_apply_to_process_leaves_other_devices_and_libraries_alone(settings, monkeypatch):
    assert apply_to_process(tiny_cfg(MODEL__DEVICE="cuda")) == ""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert apply_to_process(tiny_cfg()) == ""
    assert settings == []


@pytest.mark.parametrize("name", malloc._ENVIRONMENT)
def test_apply_to_process_yields_to_the_environment(settings, monkeypatch, name):
    monkeypatch.setenv(name, "1000000")
    assert apply_to_process(tiny_cfg()) == ""
    assert (
        apply_to_process(tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=("backbone",))) == ""
    )
    assert settings == []


def test_apply_to_process_does_not_claim_a_refused_setting(settings, monkeypatch):
    class Library:
        def __init__(self, name):
            self.mallopt = lambda setting, value: 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert apply_to_process(tiny_cfg()) == ""


@pytest.fixture
def processes(monkeypatch):
    """The configurations that this process was to be set up for."""
    cfgs = []
    monkeypatch.setattr(malloc, "apply_to_process", cfgs.append)
    return cfgs


def test_speed_up_process_follows_the_configuration(processes):
    for names in ((), ("fold_norms",)):
        speed_up_process(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=names))
    assert processes == []
    cfg = tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("fold_norms", "malloc"))
    speed_up_process(cfg)
    assert processes == [cfg]


@pytest.mark.parametrize("names", ["('malloc',)", "()"])
def test_run_sets_the_process_of_a_training(processes, monkeypatch, make_args, names):
    monkeypatch.setattr(train_net, "main", lambda args: None)
    key = "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING"
    opts = (key, "('mask_heads',)", "MODEL.QUERYINST.SPEEDUPS", names)
    assert train_net.run(make_args(*opts)) == 0
    expected = [] if names == "()" else [("mask_heads",)]
    assert [cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING for cfg in processes] == expected


def test_run_leaves_the_process_of_an_evaluation(processes, monkeypatch, make_args):
    monkeypatch.setattr(train_net, "main", lambda args: None)
    assert train_net.run(make_args("MODEL.QUERYINST.SPEEDUPS", "('malloc',)", eval_only=True)) == 0
    assert processes == []


def test_main_and_Trainer_and_build_model_leave_the_process_of_their_caller(
    processes, make_args, monkeypatch
):
    steps = []
    monkeypatch.setattr(Trainer, "train", lambda self: steps.append(self.cfg))
    train_net.main(make_args("MODEL.QUERYINST.SPEEDUPS", "('malloc',)"))  # makes a Trainer
    build_queryinst(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("malloc",)))
    assert steps[0].MODEL.QUERYINST.SPEEDUPS == ("malloc",) and processes == []
