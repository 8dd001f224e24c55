"""The environment that make works in: made once, gone on with, and nobody else's folder emptied."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "setup_env.py"
CHECKOUT = TOOL.parents[1].name


@pytest.fixture
def tool(monkeypatch):
    """The tool with a pretended Python; `tool.calls` names what each command it ran works on."""
    spec = importlib.util.spec_from_file_location("setup_env_under_test", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.calls, tool.failing = [], None

    def call(*command):
        name = Path(str(command[-3] if "--constraint" in command[-2:] else command[-1])).name
        tool.calls.append(name.split("[")[0])
        if tool.failing == tool.calls[-1]:
            raise tool.SetupError("pip ended with status 1")
        if command[1:3] == ("-m", "venv"):
            (command[3] / "bin").mkdir(parents=True)
            (command[3] / "bin" / "python").touch()
            (command[3] / "pyvenv.cfg").touch()

    monkeypatch.setattr(tool, "call", call)
    monkeypatch.setattr(tool, "succeeds", lambda python, *_: python.exists())
    return tool


@pytest.fixture
def env(tmp_path):
    return tmp_path / "with space" / "env"


def test_setup_env_does_nothing_in_a_second_run(tool, env):
    assert tool.main([str(env)]) == 0
    assert tool.calls == [env.name, "wheel", CHECKOUT, "install_detectron2.py"]
    assert tool.main([str(env)]) == 0
    assert len(tool.calls) == 4


def test_setup_env_installs_again_when_an_input_changed(tool, env, monkeypatch):
    tool.main([str(env)])
    monkeypatch.setattr(tool, "fingerprint", lambda venv: "of other constraints")
    assert tool.main([str(env)]) == 0
    assert len(tool.calls) == 4 + 3 and env.name not in tool.calls[4:]


@pytest.mark.parametrize("failing, num_again", [("wheel", 3), (CHECKOUT, 3), ("env", 4)])
def test_setup_env_goes_on_with_a_failed_run(tool, env, capsys, failing, num_again):
    tool.failing = failing
    assert tool.main([str(env)]) == 1
    assert capsys.readouterr().err == "setup_env: error: pip ended with status 1\n"
    tool.failing, tool.calls = None, []
    assert tool.main([str(env)]) == 0
    assert len(tool.calls) == num_again


def test_setup_env_goes_on_with_a_half_made_environment(tool, env):
    env.mkdir(parents=True)
    (env / "pyvenv.cfg").touch()
    assert tool.main([str(env)]) == 0
    assert tool.calls[0] == env.name


@pytest.mark.parametrize("target", [sys.executable, "gone"])
def test_setup_env_names_an_environment_of_another_python(tool, env, monkeypatch, capsys, target):
    tool.main([str(env)])
    monkeypatch.undo()  # the real Python answers
    monkeypatch.setattr(tool.sys, "version_info", (sys.version_info[0], 99))
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to(target)
    assert tool.main([str(env)]) == 1
    assert "does not work with this Python; remove it or set VENV=" in capsys.readouterr().err


def test_setup_env_leaves_a_folder_of_something_else_alone(tool, tmp_path, capsys):
    (tmp_path / "precious.txt").touch()
    assert tool.main([str(tmp_path)]) == 1
    assert "no working environment; remove it or set VENV=" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"] and tool.calls == []


def test_setup_env_uses_an_environment_that_was_there(tool, env):
    (env / "bin").mkdir(parents=True)
    (env / "bin" / "python").touch()
    assert tool.main([str(env)]) == 0
    assert tool.calls == ["wheel", CHECKOUT, "install_detectron2.py"]


def test_setup_env_shows_its_usage(tool, capsys):
    assert tool.main([]) == 2
    assert "usage: setup_env.py VENV" in capsys.readouterr().err
