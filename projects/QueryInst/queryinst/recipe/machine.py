"""What computes, and how much memory it has at hand."""

import os
import re
from pathlib import Path

import torch

from ..devices import resolve_device
from .structures import Machine

_MEMINFO = Path("/proc/meminfo")
# Limits of a container, and what it uses of them: control groups, version 2 and 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def find_machine(device: str | None) -> Machine:
    """The device to train on, and what it has.

    Args:
        device: None for a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device. One line.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = resolve_device(name, training=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(name, _memory(name), cores or 1)


def _memory(device: str) -> int | None:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return _system_memory() if device == "cpu" else None


def _system_memory() -> int | None:
    """Bytes that a process can get without swapping; None where the system does not say."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(_MEMINFO))
    free = [int(found[1]) * 1024] if found else []
    for limit, usage in _GROUPS:
        limit_text, usage_text = _read(limit).strip(), _read(usage).strip()
        if limit_text.isdigit() and usage_text.isdigit():
            free.append(max(0, int(limit_text) - int(usage_text)))
    return min(free, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
