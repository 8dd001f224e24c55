"""One process or several, which Detectron2's `launch` or torchrun starts."""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed

_SECONDS_TO_END = 10  # for interrupted processes


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
    """End the processes of `launch` if this one is interrupted.

    A terminal interrupts all of them, a signal only this one.
    """
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children() if has_children else ():
            child.join(_SECONDS_TO_END)
            child.terminate()
            child.join()
        raise
