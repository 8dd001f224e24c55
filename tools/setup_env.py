#!/usr/bin/env python3
"""Makes the virtual environment that `make` works in, or does nothing if it is up to date.

usage: setup_env.py VENV

The environment holds the versions of constraints.txt, Detectron2, and this checkout as an editable
install. A file in it remembers from what it was made: as long as that stays the same, a second run
takes no time. A run that was interrupted is gone on with. Standard library alone.
"""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("constraints.txt", "pyproject.toml", "setup.cfg", "setup.py")
INPUT_FOLDER = "projects/QueryInst/queryinst_setup"
STATE_NAME = ".queryinst-setup.json"


class SetupError(Exception):
    """What a person has to mend; the message is one line."""


def main(argv):
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        set_up(Path(argv[0]).absolute())
    except (SetupError, OSError) as error:
        print(f"setup_env: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup_env: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def set_up(venv):
    """Bring `venv` up to date with this checkout."""
    wanted = fingerprint(venv)
    state = read_state(venv)
    python = venv / "bin" / "python"
    if state.get("complete") == wanted and python.exists():
        return
    state = make_venv(venv, state)
    extras = "dev,demo,opencv"
    if not state["owned"] and succeeds(python, "-c", "import cv2"):
        extras = "dev,demo"  # the packages that hold a cv2 overwrite each other
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    pip = ("-m", "pip", "--disable-pip-version-check", "install", *constraints)
    if "complete" in state:
        print("bringing the installed packages up to date", flush=True)
        pip += ("--quiet",)  # nearly all are there, which is not worth a line each
    else:
        print("installing the pinned packages, several GB; this takes minutes", flush=True)
    call(python, *pip, "setuptools", "wheel")
    # Without build isolation, which would download another setuptools for each build.
    call(python, *pip, "--no-build-isolation", "--editable", f"{ROOT}[{extras}]")
    call(python, ROOT / "tools" / "install_detectron2.py", *constraints)
    write_state(venv, state | {"complete": wanted})


def fingerprint(venv):
    """Changes with whatever the environment depends on, its own place and the checkout's too."""
    paths = [ROOT / name for name in INPUTS] + sorted((ROOT / INPUT_FOLDER).glob("*.py"))
    digest = hashlib.sha256(f"{ROOT}\n{venv}\n{sys.version_info[:2]}\n".encode())
    for path in [*paths, Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv(venv, state):
    """An environment with pip at `venv`; gives its state. Empties only what was made here."""
    python = venv / "bin" / "python"
    is_used = venv.is_dir() and any(venv.iterdir())
    if is_used and not state:
        if not succeeds(python, "-m", "pip", "--version"):
            raise SetupError(f"{venv} exists and is no working environment; remove it or set VENV=")
        return {"owned": False, "python": list(sys.version_info[:2])}
    is_ready = state.get("python") == list(sys.version_info[:2])
    if is_ready and succeeds(python, "-c", "import pip"):
        return state
    if state and not state["owned"]:
        raise SetupError(f"{venv} does not work with this Python; remove it or set VENV=")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(f"{sys.executable} cannot make environments; install python3-venv")
    venv.mkdir(parents=True, exist_ok=True)
    write_state(venv, {"owned": True})  # before all else: says that the rest may be removed
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STATE_NAME:
            path.unlink()
    print(f"making the environment {venv}", flush=True)
    call(sys.executable, "-m", "venv", venv)
    state = {"owned": True, "python": list(sys.version_info[:2])}
    write_state(venv, state)
    return state


def read_state(venv):
    try:
        return json.loads((venv / STATE_NAME).read_text())
    except FileNotFoundError:
        return {}


def write_state(venv, state):
    partial = venv / f"{STATE_NAME}.part"
    partial.write_text(json.dumps(state))
    partial.replace(venv / STATE_NAME)


def succeeds(*command):
    try:
        return subprocess.run(list(map(str, command)), capture_output=True).returncode == 0
    except OSError:
        return False


def call(*command):
    command = list(map(str, command))
    if status := subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        what = " ".join(command[1:5])
        raise SetupError(f"'{what} ...' ended with status {status}, its message is above")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
