import argparse
import multiprocessing
import os
import signal
import time
from datetime import timedelta

import pytest
import torch
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessRaisedException

from queryinst.engine import processes
from queryinst.engine.processes import run_in_processes
from queryinst.engine.stopping import Interrupted, Stopped
from queryinst.testing import tiny_cfg

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@pytest.fixture
def torchrun(monkeypatch, tmp_path):
    """The environment that torchrun gives the only process."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")  # any that is free
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    comm.create_local_process_group.cache_clear()
    yield
    comm.create_local_process_group.cache_clear()


@pytest.fixture
def launched(monkeypatch):
    """What Detectron2's launch is asked for, and the GPUs that it would see."""
    calls = []

    def launch(function, num_gpus, **kwargs):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        calls.append({**kwargs, "num_gpus": num_gpus, "visible": visible})

    monkeypatch.setattr(processes, "launch", launch)
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    return calls


def pretend_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_run_in_processes_joins_and_leaves_torchruns_group(torchrun):
    seen = []

    def look(args, output_dir):
        seen.append((args.x, output_dir, distributed.get_backend(), comm.get_world_size()))
        seen.append((comm.get_rank(), comm.get_local_rank(), comm.get_local_size()))

    run_in_processes(look, argparse.Namespace(x=7), tiny_cfg(OUTPUT_DIR="out"))
    assert seen == [(7, "out", "gloo", 1), (0, 0, 1)]
    assert not distributed.is_initialized()


def test_run_in_processes_waits_as_long_as_the_key_says(launched, monkeypatch):
    cfg = tiny_cfg(DISTRIBUTED__TIMEOUT_MINUTES=0.5)
    run_in_processes(print, argparse.Namespace(num_gpus=2), cfg)
    for name, value in {**TORCHRUN, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    given = []

    def init_process_group(backend, timeout):
        given.append((backend, timeout))
        raise RuntimeError("no port")

    monkeypatch.setattr(distributed, "init_process_group", init_process_group)
    with pytest.raises(RuntimeError, match="no port"):
        run_in_processes(print, argparse.Namespace(), cfg)
    assert launched[0]["timeout"] == timedelta(seconds=30)
    assert given == [("gloo", timedelta(seconds=30))]


def test_run_in_processes_leaves_the_group_after_an_error(torchrun):
    def fail(args, output_dir):
        raise ValueError("set X")

    with pytest.raises(ValueError, match="set X"):
        run_in_processes(fail, argparse.Namespace(), tiny_cfg())
    assert not distributed.is_initialized()


def test_run_in_processes_starts_none_under_torchrun(torchrun):
    with pytest.raises(ValueError, match="torchrun starts the processes; leave out --num-gpus 2"):
        run_in_processes(print, argparse.Namespace(num_gpus=2), tiny_cfg())


@pytest.mark.parametrize("before", [None, "0,1"])
def test_run_in_processes_hides_gpus_from_processes_on_the_cpu(launched, monkeypatch, before):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    run_in_processes(print, args, tiny_cfg(OUTPUT_DIR="out"))
    (call,) = launched
    assert call["num_gpus"] == 2 and call["visible"] == ""
    assert call["args"] == (args, "out") and call["timeout"] == timedelta(minutes=30)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_run_in_processes_shows_gpus_otherwise(launched, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    run_in_processes(print, argparse.Namespace(), tiny_cfg())
    pretend_gpus(monkeypatch, 2)
    run_in_processes(print, argparse.Namespace(num_gpus=2), tiny_cfg(MODEL__DEVICE="cuda"))
    assert [(call["num_gpus"], call["visible"]) for call in launched] == [(1, "0,1"), (2, "0,1")]


def test_run_in_processes_refuses_more_processes_than_gpus(launched, monkeypatch):
    pretend_gpus(monkeypatch, 2)
    with pytest.raises(ValueError, match="--num-gpus 8, but torch finds 2"):
        run_in_processes(print, argparse.Namespace(num_gpus=8), tiny_cfg(MODEL__DEVICE="cuda"))
    assert launched == []


def test_run_in_processes_ends_its_processes_if_interrupted(launched, monkeypatch):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))

    def launch(function, num_gpus, **kwargs):
        child.start()
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "launch", launch)
    monkeypatch.setattr(processes, "_SECONDS_TO_END", 0.01)
    with pytest.raises(KeyboardInterrupt):
        run_in_processes(print, argparse.Namespace(num_gpus=2), tiny_cfg())
    assert not child.is_alive()


def end_as_told(how):
    """What one of the processes of `launch` does; none fails before it can have been seen."""
    if isinstance(how, BaseException):
        time.sleep(0.5)
        raise how
    time.sleep(how)


def in_processes(*endings, then=lambda: None):
    """A `launch` whose processes end so; the first argument is of run_in_processes' own."""

    def launch(function, num_gpus, *, args, **kwargs):
        context = torch.multiprocessing.start_processes(
            lambda rank: function(endings[rank], args[1]),
            nprocs=len(endings),
            join=False,
            start_method="fork",
        )
        then()
        while not context.join():
            pass

    return launch


def end(how, output_dir):
    end_as_told(how)


@pytest.fixture
def run_two(launched, monkeypatch):
    monkeypatch.setattr(processes, "_SECONDS_TO_END", 0.5)

    def run(*endings, then=lambda: None):
        monkeypatch.setattr(processes, "launch", in_processes(*endings, then=then))
        run_in_processes(end, argparse.Namespace(num_gpus=2), tiny_cfg())

    return run


def test_run_in_processes_raises_a_stop_of_its_processes(run_two):
    with pytest.raises(Stopped) as raised:
        run_two(Stopped(signal.SIGUSR1), Stopped(signal.SIGUSR1))
    assert raised.value.number == signal.SIGUSR1 and raised.value.status == 75
    run_two(0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_in_processes_raises_an_interrupt_of_its_processes(run_two, number):
    with pytest.raises(Interrupted) as raised:
        run_two(Interrupted(number), 600)
    assert raised.value.status == 128 + number and not isinstance(raised.value, Stopped)
    assert multiprocessing.active_children() == []


def test_run_in_processes_kills_processes_that_go_on_when_one_has_failed(run_two):
    start = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="ValueError: set X"):
        run_two(ValueError("set X"), 600)  # forked, with the launcher's handler for SIGTERM
    assert time.monotonic() - start < 10  # `launch` alone waits for 30


def test_run_in_processes_forwards_the_first_signal(run_two):
    start = time.monotonic()
    with pytest.raises(Interrupted) as raised:
        run_two(600, 600, then=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert raised.value.status == 143 and time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
