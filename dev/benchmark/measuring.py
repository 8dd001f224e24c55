"""Time, peak memory and foreign load of a repeated step.

It imports nothing of the project: worker.py measures MMDetection with it as well.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

QUIET = 0.05  # share of the cores that others may use
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Measurement:
    """Of one process.

    Attributes:
        seconds: wall-clock, of each repetition.
        cpu_seconds: of all threads of this process.
        resident_bytes: when the peak was reset, with model and optimizer state.
        peak_bytes: CPU: resident, VmHWM; CUDA: of the allocator. None where that can't be read.
        own_cores: how many cores this process used.
        others_share: of all cores, used by others or a hypervisor; None without /proc/stat.
    """

    median: float
    cpu_median: float
    seconds: list[float]
    cpu_seconds: list[float]
    resident_bytes: int | None
    peak_bytes: int | None
    own_cores: float
    others_share: float | None


def measure(
    step: Callable[[], Any], *, device: str, warmup: int, repeats: int
) -> tuple[Measurement, Any]:
    """Run `step` again and again.

    Args:
        device: where it computes.
        warmup: runs before, at least 1, which also make the optimizer's state.

    Returns:
        What was measured, and what the last step returned.

    Raises:
        ValueError: less than one run.
    """
    if warmup < 1 or repeats < 1:
        raise ValueError(f"{warmup=} and {repeats=} must be >= 1; set --warmup and --repeats")
    for _ in range(warmup):
        step()
    result = None
    seconds, cpu_seconds = [], []
    gc.collect()
    resident = reset_peak(device)
    meter = LoadMeter()
    for _ in range(repeats):
        result = None  # lest it lie beside the next one
        _synchronize(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        result = step()
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    medians = statistics.median(seconds), statistics.median(cpu_seconds)
    memory = resident, read_peak(device)
    return Measurement(*medians, seconds, cpu_seconds, *memory, *meter.read()), result


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def times_in_turn(
    steps: Sequence[Callable[[], Any]], device: str, repeats: int
) -> list[list[float]]:
    """The seconds of each of `repeats` runs of each step, after one that is not counted."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats + 1):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            _synchronize(device)
            times.append(time.perf_counter() - start)
    return [times[1:] for times in seconds]


class LoadMeter:
    """Reads the load from its making until `read`."""

    def __init__(self) -> None:
        self._start = self._now()

    def read(self) -> tuple[float, float | None]:
        """Return `own_cores` and `others_share` of a `Measurement`."""
        elapsed, own, busy = (b - a for a, b in zip(self._start, self._now()))
        cores = _busy_ticks()[1]
        # Ticks are 10 ms long, so a short span may seem to have less than nothing.
        others = max(busy - own, 0.0) / elapsed / cores if cores else None
        return own / elapsed, others

    @staticmethod
    def _now() -> tuple[float, float, float]:
        ticks = _busy_ticks()[0] / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), time.process_time(), ticks


def _busy_ticks() -> tuple[int, int]:
    """What all cores together have worked, and how many there are; (0, 0) if nobody knows."""
    if not _STAT.is_file():
        return 0, 0
    lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, lines[0][1:9])
    return user + nice + system + irq + softirq + steal, len(lines) - 1


def reset_peak(device: str) -> int | None:
    """Start over with the peak; returns the memory that is taken now, in bytes."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:  # not Linux, or a container that forbids it
        return None
    return _status_bytes("VmRSS")


def read_peak(device: str) -> int | None:
    """The highest since `reset_peak`, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM") if os.access(_CLEAR_REFS, os.W_OK) else None


def _status_bytes(key: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def quietness(others_share: float | None) -> str:
    """How much of the machine others used, in words."""
    if others_share is None:
        return "of other processes nothing is known"
    word = "quiet" if others_share <= QUIET else "NOT QUIET, so take these times with care"
    return f"others used at most {100 * others_share:.0f} % of the cores ({word})"


def gigabytes(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:.2f} GB"
