"""The tool that installs Detectron2: what it does when, and one line for each thing that fails."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from queryinst_setup import install_detectron2 as tool
from queryinst_setup import repack
from queryinst_setup.probe import Module, Probe

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch": Module(version="2.0"), "torchvision": Module(version="0.15")}
WORKING = Probe(modules=TORCH)
ABSENT = Probe(
    modules=TORCH,
    missing=[("detectron2.x", "ModuleNotFoundError: No module named 'detectron2'")],
)
DAMAGED = Probe(modules=TORCH, missing=[("detectron2.x", "ImportError: undefined symbol")])


class FakePip:
    """Stands for the pip process; `failing` is the subcommand that fails, with `stderr`."""

    def __init__(self, failing=None, stderr=""):
        self.failing, self.stderr, self.calls = failing, stderr, []

    def run(self, command, **_):
        arguments = command[command.index("--no-input") + 1 :]
        self.calls.append(arguments)
        if "--dest" in arguments:
            _write_labgym(Path(arguments[arguments.index("--dest") + 1]) / "labgym.whl")
        failed = arguments[0] == self.failing
        return subprocess.CompletedProcess(command, int(failed), "", self.stderr if failed else "")

    def verbs(self):
        return [call[0] for call in self.calls]


def _write_labgym(path):
    mended = {
        f"LabGym/{name}": "".join(old for old, _ in replacements)
        for name, replacements in repack.MENDINGS.items()
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in mended.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the tool on what the probes find in turn: status, stdout, stderr."""

    def run(*argv, probes=(), pip=None, check_digest=False):
        answers = iter(probes)
        monkeypatch.setattr(tool, "run_probe", lambda: next(answers))
        monkeypatch.setattr(tool.subprocess, "run", (pip or FakePip()).run)
        if not check_digest:
            monkeypatch.setattr(repack, "verify_sha256", lambda path: None)
        status = tool.main(list(argv))
        return status, *capsys.readouterr()

    return run


def assert_one_line(stderr, *texts):
    assert stderr.startswith("queryinst-install-detectron2: error: ")
    assert stderr.count("\n") == 1
    for text in texts:
        assert text in stderr


def test_install_detectron2_does_nothing_if_it_works(run):
    pip = FakePip()
    status, stdout, _ = run(probes=[WORKING], pip=pip)
    assert status == 0 and pip.calls == []
    assert stdout.startswith("Detectron2 is there and works")


def test_install_detectron2_downloads_then_installs(run, tmp_path):
    pip = FakePip()
    constraint = tmp_path / "constraints.txt"
    constraint.touch()
    status, stdout, stderr = run("--constraint", str(constraint), probes=[ABSENT, WORKING], pip=pip)
    assert (status, stderr) == (0, "")
    assert "labgym==3.1.2" in pip.calls[0] and "--ignore-requires-python" in pip.calls[0]
    assert pip.calls[1][:3] == ["install", "--constraint", str(constraint)]
    assert pip.calls[1][3].endswith(repack.WHEEL_NAME)
    assert "installed Detectron2" in stdout


def test_install_detectron2_downloads_nothing_for_a_given_wheel(run, tmp_path):
    pip = FakePip()
    source = _write_labgym(tmp_path / "labgym.whl")
    status, _, _ = run("--from-wheel", str(source), probes=[DAMAGED, WORKING], pip=pip)
    assert status == 0 and "download" not in pip.verbs()


def test_install_detectron2_names_a_damaged_one_before_replacing_it(run):
    _, stdout, _ = run(probes=[DAMAGED, WORKING])
    assert "does not work: detectron2.x: ImportError: undefined symbol" in stdout


def test_install_detectron2_without_a_network(run):
    said = (
        "WARNING: Retrying after connection broken\n"
        "ERROR: Could not find a version that satisfies the requirement labgym==3.1.2\n"
        "ERROR: No matching distribution found for labgym==3.1.2\n"
    )
    pip = FakePip(failing="download", stderr=said)
    status, _, stderr = run(probes=[ABSENT], pip=pip)
    assert status == 1 and pip.verbs() == ["download"]
    assert_one_line(stderr, "is there a network?", "No matching distribution found")


def test_install_detectron2_in_an_environment_that_refuses_pip(run):
    said = "error: externally-managed-environment\n\nx This environment is ...\nhint: See PEP 668"
    status, _, stderr = run(probes=[ABSENT], pip=FakePip(failing="install", stderr=said))
    assert status == 1
    assert_one_line(stderr, "externally-managed-environment")


def test_install_detectron2_installs_nothing_of_a_wrong_digest(run):
    pip = FakePip()
    status, _, stderr = run(probes=[ABSENT], pip=pip, check_digest=True)
    assert status == 1 and "install" not in pip.verbs()
    assert_one_line(stderr, "has sha256", f"expected {repack.SOURCE_SHA256}")


def test_install_detectron2_without_pip(run, monkeypatch):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    status, _, stderr = run(probes=[ABSENT])
    assert status == 1
    assert_one_line(stderr, "has no pip", "-m ensurepip")


def test_install_detectron2_without_torchvision(run):
    modules = TORCH | {"torchvision": Module(error="RuntimeError: operator nms does not exist")}
    status, _, stderr = run(probes=[Probe(modules=modules, missing=ABSENT.missing)])
    assert status == 1
    assert_one_line(stderr, "torchvision cannot be imported", "operator nms does not exist")


def test_install_detectron2_removes_again_what_does_not_work(run):
    pip = FakePip()
    status, _, stderr = run(probes=[ABSENT, DAMAGED], pip=pip)
    assert status == 1 and pip.calls[-1] == ["uninstall", "--yes", "detectron2"]
    assert_one_line(stderr, "detectron2.x: ImportError: undefined symbol", "removed it again")


def test_install_detectron2_names_a_missing_file(run, tmp_path):
    status, _, stderr = run("--from-wheel", str(tmp_path / "none.whl"))
    assert status == 1
    assert_one_line(stderr, "none.whl does not exist")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has neither torch nor pip."""
    folder = tmp_path_factory.mktemp("bare") / "with space"
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def test_install_detectron2_in_an_environment_without_torch(bare_python, tmp_path):
    done = subprocess.run(
        [bare_python, ROOT / "tools" / "install_detectron2.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert_one_line(done.stderr, "No module named 'torch'", "install torch and torchvision first")


def test_collect_env_in_an_environment_without_torch(bare_python, tmp_path):
    done = subprocess.run(
        [bare_python, ROOT / "tools" / "collect_env.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "queryinst-install-detectron2" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["verdict", "not", "ready"]


def test_queryinst_without_detectron2_names_the_tool(bare_python):
    done = subprocess.run(
        [bare_python, "-c", "import queryinst"],
        env={"PYTHONPATH": str(ROOT / "projects" / "QueryInst")},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and "tools/install_detectron2.py" in last
    assert sys.executable != str(bare_python) and done.returncode == 1
