"""Time, peak memory and load, of steps whose cost is known."""

import os
import subprocess
import sys
import time

import pytest
import torch

from dev.benchmark import measuring
from dev.benchmark.measuring import LoadMeter, measure, quietness

MEGABYTE = 1_000_000
needs_linux = pytest.mark.skipif(
    measuring.reset_peak("cpu") is None, reason="this system has no /proc/self/clear_refs"
)


def touch(megabytes: int) -> int:
    """Needs that much memory, and gives it back."""
    return len(torch.ones(megabytes * MEGABYTE, dtype=torch.uint8))


@needs_linux
def test_measure_has_the_peak_of_the_timed_steps():
    first = True

    def step():
        nonlocal first
        touch(600 if first else 200)  # the warm-up's does not count
        first = False

    measurement, _ = measure(step, device="cpu", warmup=1, repeats=2)
    assert 150 * MEGABYTE < measurement.peak_bytes - measurement.resident_bytes < 400 * MEGABYTE


@needs_linux
def test_reset_peak_counts_what_stays_allocated():
    before = measuring.reset_peak("cpu")
    kept = torch.ones(300 * MEGABYTE, dtype=torch.uint8)
    assert measuring.reset_peak("cpu") - before > 250 * MEGABYTE
    del kept
    assert measuring.read_peak("cpu") - before > 250 * MEGABYTE  # the peak remembers


def test_measure_times_every_repetition_and_returns_the_last_result():
    results = iter(range(10))

    def step():
        time.sleep(0.02)
        return next(results)

    measurement, last = measure(step, device="cpu", warmup=2, repeats=3)
    assert last == 4 and len(measurement.seconds) == 3
    assert min(measurement.seconds) >= 0.02 and measurement.cpu_median < 0.02  # asleep, not at work


def test_measure_has_the_median_of_the_middle():
    waits = iter([0.0, 0.05, 0.0, 0.2])
    measurement, _ = measure(lambda: time.sleep(next(waits)), device="cpu", warmup=1, repeats=3)
    assert measurement.median == sorted(measurement.seconds)[1]
    assert measurement.cpu_median == sorted(measurement.cpu_seconds)[1]


@needs_linux
def test_load_meter_tells_own_work_from_that_of_others():
    code = "import time; end = time.time() + 30\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)  # until it runs
        meter = LoadMeter()
        end = time.perf_counter() + 0.6
        while time.perf_counter() < end:
            sum(range(1000))
        own_cores, others_share = meter.read()
    finally:
        other.kill()
        other.wait()
    assert 0.1 < own_cores <= 1.1
    assert others_share * os.cpu_count() > 0.2


def test_quietness_of_an_idle_machine_a_busy_and_an_unknown_one():
    assert quietness(0.01) == "others used at most 1 % of the cores (quiet)"
    assert "45 % of the cores (NOT QUIET" in quietness(0.45)
    assert quietness(None) == "of other processes nothing is known"


def test_busy_ticks_are_read_off_the_kernels_table(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 2 3 400 50 6 7 8 9 1\ncpu0 5 1 1\ncpu1 5 1 2\nintr 99\n")
    monkeypatch.setattr(measuring, "_STAT", stat)
    # Idle and waiting are no work; the guests' time is within the user's already.
    assert measuring._busy_ticks() == (10 + 2 + 3 + 6 + 7 + 8, 2)
    monkeypatch.setattr(measuring, "_STAT", tmp_path / "none")
    assert measuring._busy_ticks() == (0, 0)
    assert LoadMeter().read()[1] is None


def test_measure_without_the_kernels_help_knows_no_peak(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    measurement, _ = measure(lambda: None, device="cpu", warmup=1, repeats=1)
    assert measurement.peak_bytes is None and measurement.resident_bytes is None


@pytest.mark.parametrize("numbers", [dict(warmup=0, repeats=1), dict(warmup=1, repeats=0)])
def test_measure_refuses_too_few_steps(numbers):
    with pytest.raises(ValueError, match="--warmup and --repeats"):
        measure(lambda: None, device="cpu", **numbers)
