"""One process or several, which Detectron2's `launch` or torchrun starts."""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from .stopping import FORWARDED, SIGNALS, Interrupted, Stopped

_SECONDS_TO_END = 2.0  # for the other processes, once one has failed
_SECONDS_BETWEEN_LOOKS = 0.2


def run_in_processes(function: Callable, args: argparse.Namespace, cfg: CfgNode) -> None:
    """Call ``function(args, cfg.OUTPUT_DIR)`` in each process that `args` asks for.

    Under torchrun this process is one of them. The backend is NCCL, on the CPU gloo; each waits
    DISTRIBUTED.TIMEOUT_MINUTES for the others.

    Args:
        function: at the top level of a module.
        args: num_gpus, num_machines, machine_rank, dist_url as Detectron2's; one process without.

    Raises:
        ValueError: there are more processes than GPUs, or ``--num-gpus`` is given under torchrun.
    """
    num_gpus = getattr(args, "num_gpus", 1)
    uses_gpus = cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    timeout = timedelta(minutes=cfg.DISTRIBUTED.TIMEOUT_MINUTES)
    # NCCL then names the processes that did not arrive, before it ends those that waited.
    os.environ.setdefault("TORCH_NCCL_DESYNC_DEBUG", "1")
    if {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        if num_gpus > 1:
            raise ValueError(f"torchrun starts the processes; leave out --num-gpus {num_gpus}")
        with _torchrun_group("nccl" if uses_gpus else "gloo", timeout):
            function(args, cfg.OUTPUT_DIR)
        return
    if uses_gpus and num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {num_gpus}, but torch finds {torch.cuda.device_count()}")
    stopped_by = multiprocessing.get_context("spawn").RawValue("i", 0)
    if num_gpus > 1:
        function = partial(_run_in_child, function, stopped_by)
    with _gpus_visible(uses_gpus or num_gpus <= 1), _children_end_with_this(num_gpus > 1):
        launch(
            function,
            num_gpus,
            num_machines=getattr(args, "num_machines", 1),
            machine_rank=getattr(args, "machine_rank", 0),
            dist_url=getattr(args, "dist_url", "auto"),
            args=(args, cfg.OUTPUT_DIR),
            timeout=timeout,
        )
    if stopped_by.value:
        raise Stopped(stopped_by.value)


def _run_in_child(
    function: Callable, stopped_by: Any, args: argparse.Namespace, output_dir: str
) -> None:
    """Call `function` in a process of `launch`, which would make a failure of each interrupt."""
    # The system's own way to start a loader's workers, as without `launch`, which hands down its
    # own: a new interpreter for each, that knows nothing of `stopping`.
    multiprocessing.set_start_method(None, force=True)
    try:
        function(args, output_dir)
    except KeyboardInterrupt as error:
        status = getattr(error, "status", 130)
        if isinstance(error, Stopped):
            stopped_by.value, status = error.number, 0
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)  # all is written, and the interpreter's own end takes seconds


@contextmanager
def _torchrun_group(backend: str, timeout: timedelta) -> Iterator[None]:
    """Set up the process group of torchrun's environment, as `launch` does its own."""
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(backend, timeout=timeout)
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _gpus_visible(visible: bool) -> Iterator[None]:
    """Hide the GPUs from new processes unless `visible`: `launch` needs one each if it sees any."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif not visible:
            del os.environ["CUDA_VISIBLE_DEVICES"]


@contextmanager
def _children_end_with_this(has_children: bool) -> Iterator[None]:
    """Forward the first signal to the processes of `launch`, and kill them after the second.

    Once one has failed, the others have `_SECONDS_TO_END`: `launch` gives one that hangs 30.

    Raises:
        Interrupted: a signal ended this process or one of them.
    """
    if not has_children or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    try:
        with _forwarding(received), _failures_end_all():
            yield
    except KeyboardInterrupt:  # not by a signal: from a debugger, or a thread
        for child in multiprocessing.active_children():
            child.join(_SECONDS_TO_END)
            child.kill()
            child.join()
        raise
    except ProcessExitedException as error:
        if number := next(iter(received), 0) or _signal_of(error.exit_code):
            raise Interrupted(number) from None
        raise


@contextmanager
def _forwarding(received: list[int]) -> Iterator[None]:
    def handle(number: int, frame: Any) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, FORWARDED if len(received) == 1 else signal.SIGKILL)
        if len(received) > 1:
            os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_of(exit_code: int) -> int:
    """The one of SIGNALS that ended a process, or 0."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if number in SIGNALS else 0


@contextmanager
def _failures_end_all() -> Iterator[None]:
    """Look often, in the main thread, for a process that failed; in time, kill the others."""
    known: set[Any] = set()
    failed_at: list[float] = []

    def look(number: int, frame: Any) -> None:
        known.update(multiprocessing.active_children())
        if any(child.exitcode for child in known):
            failed_at.append(time.monotonic())
        if failed_at and failed_at[-1] - failed_at[0] >= _SECONDS_TO_END:
            for child in multiprocessing.active_children():
                child.kill()

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
