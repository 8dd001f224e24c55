"""What the figures were measured with."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..devices import processor_name

_PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "scipy")


def describe_hardware(device: str = "cpu") -> dict[str, str | int]:
    """Processor, cores, threads that torch uses, memory and, if it computes, the GPU."""
    found: dict[str, str | int] = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    kilobytes = _first(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo"))
    if kilobytes:
        found["memory_gb"] = round(int(kilobytes) / 1e6)
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def describe_versions() -> dict[str, str]:
    """Python's and those of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text()) if path.is_file() else None
    return match[1].strip() if match else ""
