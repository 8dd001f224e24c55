"""What an interpreter can import, asked in a process of its own."""

import pytest

from queryinst_setup.probe import run_probe


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that the other process can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


def test_run_probe_has_versions_and_errors(module):
    module("with_version", "__version__ = '1.2'\nprint('hello')\n")
    module("failing", "raise OSError('libX.so:\\n  cannot open')\n")
    probe = run_probe(["with_version", "failing", "no_such_module"], capabilities=())
    assert probe.crash is None
    assert probe.modules["with_version"].version == "1.2"
    assert probe.modules["with_version"].error is None
    assert probe.modules["failing"].error == "OSError: libX.so: cannot open"
    assert probe.modules["no_such_module"].error.startswith("ModuleNotFoundError")


def test_run_probe_names_missing_capabilities(module):
    module("a_library", "present = 1\n")
    pairs = [("a_library", "present"), ("a_library", "absent"), ("no_such_module", "x")]
    probe = run_probe([], capabilities=pairs)
    assert [name for name, _ in probe.missing] == ["a_library.absent", "no_such_module.x"]
    assert "AttributeError" in probe.missing[0][1]


def test_run_probe_has_one_line_for_a_crash(module):
    module(
        "crashing",
        "import os, sys\nsys.stderr.write('one\\ntwo\\n')\nsys.stderr.flush()\nos._exit(7)\n",
    )
    probe = run_probe(["crashing"], capabilities=())
    assert probe.crash == "exit status 7: two"


def test_run_probe_takes_no_folder_of_the_working_directory_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "a_clone").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_probe(["a_clone"], capabilities=()).modules["a_clone"].error is not None
