"""Six real kills, by the harness that makes the table of docs/reliability.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_kills_leave_runs_that_end_as_the_uninterrupted_one():
    """In a process of its own, which must have no threads when it forks."""
    environment = {"PYTHONPATH": str(ROOT / "projects" / "QueryInst"), "OMP_NUM_THREADS": "1"}
    command = [
        "-m",
        "dev.reliability.kills",
        "--kills",
        "6",
        "--settings",
        "plain",
        "two processes",
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    kills, in_writes, lives = map(int, re.findall(r"\d+", last)[:3])
    assert kills >= 6 and in_writes >= 2 and lives > kills and last.endswith("| all |")
