"""The report of what is installed, from made-up findings."""

import pytest

from queryinst_setup import collect_env
from queryinst_setup.probe import Module, Probe


def findings(*absent, **fields):
    names = [*collect_env.REQUIRED, *collect_env.OPTIONAL]
    modules = {name: Module(version="1.0", file=f"/site/{name}.py") for name in names}
    for name in absent:
        modules[name] = Module(error=f"ModuleNotFoundError: No module named {name!r}")
    return Probe(modules=modules, **fields)


@pytest.fixture
def report(monkeypatch, capsys):
    def report(probe):
        monkeypatch.setattr(collect_env, "run_probe", lambda names: probe)
        status = collect_env.main([])
        return status, capsys.readouterr().out.splitlines()

    return report


def line_of(lines, label):
    return next(line for line in lines if line.split()[0] == label)


def test_collect_env_calls_a_complete_environment_ready(report):
    gpus = [("A100", 80 * 2**30)]
    hardware = "processor EPYC, cores 2, instructions AVX2"
    status, lines = report(
        findings(cuda=gpus, cuda_version="12.1", compiled=True, hardware=hardware)
    )
    assert line_of(lines, "hardware").endswith(hardware)
    assert status == 0 and "ready: QueryInst can run here" in lines[-1]
    assert "A100, 81920 MiB" in line_of(lines, "cuda:0")
    assert not any(line.startswith(("problem", "GPU")) for line in lines)


def test_collect_env_calls_a_cpu_alone_ready_and_says_how_to_train(report):
    status, lines = report(findings())
    assert status == 0 and "MODEL.DEVICE cpu" in line_of(lines, "GPU")


@pytest.mark.parametrize("name", collect_env.OPTIONAL)
def test_collect_env_says_what_a_missing_option_is_for(report, name):
    status, lines = report(findings(name))
    assert status == 0
    assert line_of(lines, name).split(maxsplit=1)[1] == (
        f"missing; optional, for {collect_env.OPTIONAL[name]}"
    )


@pytest.mark.parametrize("name", collect_env.REQUIRED)
def test_collect_env_calls_a_missing_requirement_a_problem(report, name):
    status, lines = report(findings(name))
    assert status == 1 and lines[-1].endswith("not ready")
    assert f"{name} does not import: ModuleNotFoundError" in line_of(lines, "problem")


def test_collect_env_says_once_that_detectron2_is_missing(report):
    missing = [("detectron2.data.DatasetMapper", "ModuleNotFoundError")]
    _, lines = report(findings("detectron2", "queryinst", missing=missing))
    problems = [line for line in lines if line.startswith("problem")]
    assert len(problems) == 1 and "queryinst-install-detectron2" in problems[0]


def test_collect_env_calls_a_missing_capability_a_problem(report):
    status, lines = report(findings(missing=[("detectron2.model_zoo.get", "no pkg_resources")]))
    assert status == 1
    assert "Detectron2 lacks detectron2.model_zoo.get: no pkg_resources" in lines[-2]


def test_collect_env_calls_a_crash_a_problem(report):
    status, lines = report(Probe(crash="exit status -11: no message"))
    assert status == 1 and "exit status -11" in lines[-2]


def test_collect_env_refuses_arguments(capsys):
    for argument, status in (("--all", 2), ("--help", 0)):
        with pytest.raises(SystemExit, match=f"^{status}$"):
            collect_env.main([argument])
    assert "verdict" in capsys.readouterr().out
