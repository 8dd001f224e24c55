"""What a figure was computed with: the machine and the versions."""

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_PACKAGES = ("queryinst", "torch", "torchvision", "detectron2", "numpy", "scipy")
# What may decide which code is fast here, as Linux names it: of x86, and of ARM.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def describe_hardware(device: str = "cpu") -> dict[str, str | int]:
    """Processor, cores, threads that torch uses, vector instructions, memory and the GPU.

    Args:
        device: that computes; a GPU is described if it is one.
    """
    hardware: dict[str, str | int] = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "threads": torch.get_num_threads(),
        "instructions": vector_instructions(),
    }
    if kilobytes := _first(r"MemTotal:\s*(\d+) kB", _MEMINFO):
        hardware["memory_gb"] = round(int(kilobytes) / 1e6)
    if device.startswith("cuda"):
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware


def describe_versions() -> dict[str, str]:
    """Python's and those of the packages that compute."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def as_line(values: Mapping[str, object]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def processor_name() -> str:
    """The processor as Linux names it, else its architecture."""
    return _first(r"model name\s*: (.*)", _CPUINFO) or platform.machine()


def vector_instructions() -> str:
    """The set that torch's kernels use, and those of the processor's flags that matter."""
    flags = _first(r"(?:flags|Features)\s*: (.*)", _CPUINFO).split()
    capability = torch.backends.cpu.get_cpu_capability()
    return " ".join([capability, *(flag for flag in _FLAGS if flag in flags)])


def _first(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text()) if path.is_file() else None
    return match[1].strip() if match else ""
