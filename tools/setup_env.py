#!/usr/bin/env python3
"""Makes the virtual environment that `make` works in, or does nothing if it is up to date.

usage: setup_env.py VENV

The environment holds the versions of constraints.txt, Detectron2, and this checkout as an editable
install. A file in it remembers from what it was made: as long as that stays the same, a second run
takes no time. A run that was interrupted is gone on with. Standard library alone.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("constraints.txt", "pyproject.toml", "setup.cfg", "setup.py")
INPUT_FOLDER = "projects/QueryInst/queryinst_setup"
STATE_NAME = ".queryinst-setup"
CV2_PACKAGE = "opencv-python-headless"


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
    wanted, state, python = fingerprint(venv), venv / STATE_NAME, venv / "bin" / "python"
    is_new = not state.is_file()
    if not is_new and state.read_text() == wanted and python.exists():
        return
    if not (is_of_this_python(python) and succeeds(python, "-m", "pip", "--version")):
        make_venv(venv, python)
    extras = "dev,demo,opencv"
    is_ours = succeeds(python, "-m", "pip", "show", CV2_PACKAGE)
    if succeeds(python, "-c", "import cv2") and not is_ours:
        extras = "dev,demo"  # the packages that hold a cv2 overwrite each other
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    pip = ("-m", "pip", "--disable-pip-version-check", "install", *constraints)
    if is_new:
        print("installing the pinned packages, several GB; this takes minutes", flush=True)
    else:
        print("bringing the installed packages up to date", flush=True)
        pip += ("--quiet",)  # nearly all are there, which is not worth a line each
    call(python, *pip, "setuptools", "wheel")
    # Without build isolation, which would download another setuptools for each build.
    call(python, *pip, "--no-build-isolation", "--editable", f"{ROOT}[{extras}]")
    call(python, ROOT / "tools" / "install_detectron2.py", *constraints)
    state.write_text(wanted)


def fingerprint(venv):
    """Changes with whatever the environment depends on, its own place and the checkout's too."""
    paths = [ROOT / name for name in INPUTS] + sorted((ROOT / INPUT_FOLDER).glob("*.py"))
    digest = hashlib.sha256(f"{ROOT}\n{venv}\n{sys.version_info[:2]}\n".encode())
    for path in [*paths, Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv(venv, python):
    """An environment with pip at `venv`; nothing that is there is removed."""
    if venv.is_dir() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        raise SetupError(f"{venv} exists and is no working environment; remove it or set VENV=")
    if os.path.lexists(python) and not is_of_this_python(python):
        raise SetupError(f"{venv} does not work with this Python; remove it or set VENV=")
    print(f"making the environment {venv}", flush=True)
    call(sys.executable, "-m", "venv", venv)


def is_of_this_python(python):
    """Whether an environment's `python` runs, in this Python's version."""
    version = tuple(sys.version_info[:2])
    return succeeds(python, "-c", f"import sys; assert sys.version_info[:2] == {version}")


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
