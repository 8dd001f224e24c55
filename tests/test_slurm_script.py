"""docs/training.md: the SLURM script, with stand-ins for SLURM's commands."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)[1]
SRUN = """#!/bin/bash
echo "srun $*" >> calls
trap 'echo "USR1 to srun" >> calls; sleep 0.3; exit {after_signal}' USR1
touch started
for _ in $(seq {tenths}); do sleep 0.1; done
exit {status}
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls
[ "$1" = show ] && echo node1 && echo node2
exit 0
"""


@pytest.fixture
def submit(tmp_path):
    """A function that runs the script as SLURM does; status and calls of srun and scontrol."""

    def run(*, status=0, after_signal=1, tenths=0, send=None):
        stand_ins = {"srun": SRUN, "scontrol": SCONTROL}
        for name, text in stand_ins.items():
            for key, value in (("status", status), ("after_signal", after_signal)):
                text = text.replace(f"{{{key}}}", str(value))
            (tmp_path / name).write_text(text.replace("{tenths}", str(tenths)))
            (tmp_path / name).chmod(0o755)
        (tmp_path / "job.sh").write_text(SCRIPT)
        environment = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]"}
        environment |= {"SLURM_JOB_NUM_NODES": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env={**os.environ, **environment})
        if send:
            while not (tmp_path / "started").exists():
                time.sleep(0.02)
            job.send_signal(send)
        return job.wait(30), (tmp_path / "calls").read_text().splitlines()

    return run


def test_slurm_script_starts_torchrun_on_all_nodes_and_requeues_no_finished_run(submit):
    status, (show, srun, *others) = submit()
    assert status == 0 and show == "scontrol show hostnames node[1-2]" and others == []
    assert "--nnodes 2 " in srun and "--rdzv-endpoint node1:29500" in srun and "--resume" in srun


def test_slurm_script_passes_the_signal_on_and_requeues(submit):
    status, calls = submit(tenths=100, send=signal.SIGUSR1)
    assert calls[2:] == ["USR1 to srun", "scontrol requeue 42"] and status == 1


def test_slurm_script_requeues_no_run_that_finished_after_the_signal(submit):
    status, calls = submit(tenths=100, after_signal=0, send=signal.SIGUSR1)
    assert calls[2:] == ["USR1 to srun"] and status == 0


@pytest.mark.parametrize("status, requeued", [(75, ["scontrol requeue 42"]), (1, []), (2, [])])
def test_slurm_script_requeues_a_stopped_run_and_no_failed_one(submit, status, requeued):
    ended, calls = submit(status=status)
    assert ended == status and calls[2:] == requeued


def test_slurm_script_asks_for_the_signal_that_it_handles():
    assert "#SBATCH --signal=B:USR1@120\n" in SCRIPT and "#SBATCH --requeue\n" in SCRIPT
    assert "#SBATCH --open-mode=append\n" in SCRIPT
