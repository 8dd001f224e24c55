#!/usr/bin/env python3
"""Makes the environment in which MMDetection runs as a peer, or does nothing if it is up to date.

usage: setup_peer.py PROJECT_VENV PEER_VENV

The peer sees the packages of the project's environment behind its own, so that both sides compute
with the same torch. Standard library alone.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "tests" / "parity" / "requirements-peer.txt"


def main(argv):
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    project, peer = (Path(arg).absolute() for arg in argv)
    digest = hashlib.sha256(f"{project}\n{REQUIREMENTS.read_text()}".encode()).hexdigest()
    done = peer / ".peer-setup"
    if done.is_file() and done.read_text() == digest:
        return 0
    print(f"making the peer environment {peer}", flush=True)
    try:
        set_up(project, peer)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd[1:4]))
        print(f"setup_peer: error: '{command} ...' failed, see above", file=sys.stderr)
        return 1
    done.write_text(digest)
    return 0


def set_up(project, peer):
    python = peer / "bin" / "python"
    subprocess.run([project / "bin" / "python", "-m", "venv", "--clear", peer], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)
    (own,) = peer.glob("lib/python3*/site-packages")
    (shared,) = project.glob("lib/python3*/site-packages")
    (own / "project-environment.pth").write_text(f"{shared}\n")


def peer_versions(peer):
    """Of MMDetection and what it computes with beside torch."""
    code = "from importlib.metadata import version as v; print(v('mmdet'), v('mmengine'))"
    command = [str(peer / "bin" / "python"), "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(zip(("mmdet", "mmengine"), done.stdout.split()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
