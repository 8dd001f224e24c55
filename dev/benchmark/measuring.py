"""Time, peak memory and foreign load of a repeated step.

It imports nothing of the project: worker.py measures MMDetection with it as well.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

QUIET = 0.05  # share of the cores that others may use
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Load:
    """Of a span of time, in cores: what this process used, and what others did.

    Attributes:
        others: None where there is no /proc/stat; includes what a hypervisor took.
    """

    cores: int
    own: float
    others: float | None

    @property
    def others_share(self) -> float | None:
        return None if self.others is None else self.others / self.cores

    @property
    def is_quiet(self) -> bool:
        return self.others_share is not None and self.others_share <= QUIET


class LoadMeter:
    """Reads the load from its making until `read`."""

    def __init__(self) -> None:
        self._start = self._now()

    def read(self) -> Load:
        elapsed, own, busy = (b - a for a, b in zip(self._start, self._now()))
        cores = _busy_ticks()[1]
        if not cores:
            return Load(os.cpu_count() or 1, own / elapsed, None)
        # Ticks are 10 ms long, so a short span may seem to have less than nothing.
        return Load(cores, own / elapsed, max(busy - own, 0.0) / elapsed)

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


@dataclass(frozen=True)
class Measurement:
    """Of one process.

    Attributes:
        seconds: wall-clock, of each repetition.
        cpu_seconds: of all threads of this process.
        resident_bytes: when the peak was reset, with model and optimizer state.
        peak_bytes: CPU: resident, VmHWM; CUDA: of the allocator. None where that can't be read.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    resident_bytes: int | None
    peak_bytes: int | None
    load: Load

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu_seconds)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median, "cpu_median": self.cpu_median}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measurement":
        """Of what `to_dict` made."""
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"load": Load(**values["load"])})


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
        synchronize(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        result = step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    load = meter.read()
    return Measurement(seconds, cpu_seconds, resident, read_peak(device), load), result


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


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
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"{_STATUS} has no {key}")
