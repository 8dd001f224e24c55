"""Time, peak memory and load, of steps whose cost is known."""

import subprocess
import sys
import time

import pytest
import torch

from dev.benchmark import measuring
from dev.benchmark.measuring import Load, LoadMeter, Measurement, measure

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


def test_measurement_median_is_of_the_middle():
    load = Load(2, 1.0, 0.0)
    assert Measurement([3.0, 1.0, 9.0], [1.0, 1.0, 1.0], 0, 0, load).median == 3.0


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
        load = meter.read()
    finally:
        other.kill()
        other.wait()
    assert 0.1 < load.own <= 1.1
    assert load.others > 0.2 and not load.is_quiet


def test_load_of_an_idle_machine_is_quiet_and_of_an_unknown_one_is_not():
    assert Load(2, 1.9, 0.02).is_quiet
    assert not Load(2, 1.0, 0.9).is_quiet
    assert Load(4, 1.0, None).others_share is None and not Load(4, 1.0, None).is_quiet


def test_busy_ticks_are_read_off_the_kernels_table(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 2 3 400 50 6 7 8 9 1\ncpu0 5 1 1\ncpu1 5 1 2\nintr 99\n")
    monkeypatch.setattr(measuring, "_STAT", stat)
    # Idle and waiting are no work; the guests' time is within the user's already.
    assert measuring._busy_ticks() == (10 + 2 + 3 + 6 + 7 + 8, 2)
    monkeypatch.setattr(measuring, "_STAT", tmp_path / "none")
    assert measuring._busy_ticks() == (0, 0)
    assert LoadMeter().read().others is None


def test_measure_without_the_kernels_help_knows_no_peak(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    measurement, _ = measure(lambda: None, device="cpu", warmup=1, repeats=1)
    assert measurement.peak_bytes is None and measurement.resident_bytes is None


@pytest.mark.parametrize("numbers", [dict(warmup=0, repeats=1), dict(warmup=1, repeats=0)])
def test_measure_refuses_too_few_steps(numbers):
    with pytest.raises(ValueError, match="--warmup and --repeats"):
        measure(lambda: None, device="cpu", **numbers)
