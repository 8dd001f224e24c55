"""What the machine and the versions are called, also on machines that say little."""

import platform

import pytest
import torch

from queryinst import environment
from queryinst.environment import as_line, describe_hardware, describe_versions

X86 = "processor : 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse\n\n"
ARM = "processor : 0\nFeatures\t: fp asimd sve bf16\n"


@pytest.mark.parametrize(
    "cpuinfo, processor, flags",
    [
        (X86, "AMD EPYC 7B13", "avx2 avx512f avx512_bf16"),
        (ARM, platform.machine(), "asimd sve bf16"),
        (None, platform.machine(), ""),
    ],
)
def test_describe_hardware_names_processor_and_instructions(
    tmp_path, monkeypatch, cpuinfo, processor, flags
):
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(environment, "_CPUINFO", file)
    monkeypatch.setattr(environment, "_MEMINFO", tmp_path / "none")
    hardware = describe_hardware()
    assert hardware["processor"] == processor
    assert hardware["threads"] == torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    assert hardware["instructions"] == f"{capability} {flags}".strip()
    assert not {"memory_gb", "gpu"} & hardware.keys()


def test_describe_hardware_names_memory_and_a_gpu_that_computes(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:       8000123 kB\nMemFree: 12 kB\n")
    monkeypatch.setattr(environment, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert describe_hardware("cuda:1")["gpu"] == "GPU of cuda:1"
    assert describe_hardware()["memory_gb"] == 8


def test_describe_versions_leaves_out_what_is_not_installed(monkeypatch):
    versions = describe_versions()
    assert versions["python"] == platform.python_version()
    assert torch.__version__.startswith(versions["torch"])
    monkeypatch.setattr(environment, "_PACKAGES", ("no-such-package",))
    assert list(describe_versions()) == ["python"]


def test_as_line():
    assert as_line({"cores": 2, "processor": "x"}) == "cores 2, processor x"
