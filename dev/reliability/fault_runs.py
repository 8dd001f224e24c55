"""Runs of train_net.py that something happens to, and how they end."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # for a run to reach a place, or to end
SAID = ("train_net.py: error: ", "train_net.py: warning: ")
TWO = ("--num-gpus", 2, "--dist-url", "auto", "SOLVER.IMS_PER_BATCH", 4)
LONG = ("SOLVER.MAX_ITER", 100_000)
TEST = ("DATASETS.TEST", "('tiny_val',)")
SHORT = ("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 1)


class Seen(NamedTuple):
    """How a run ended."""

    status: int  # as a shell reports it
    lines: list[str]  # of ours on stderr
    num_other_lines: int  # of tracebacks on stderr
    seconds: float  # from the fault to the end of all processes
    checkpoints: str  # "readable/all", then what last_checkpoint names

    def __str__(self) -> str:
        said = "; ".join(line.split(": ", 2)[-1] for line in self.lines) or "nothing"
        more = f", and {self.num_other_lines} lines of tracebacks" if self.num_other_lines else ""
        ended = f"status {self.status} after {self.seconds:.1f} s; {self.checkpoints}"
        return f"{ended}; said: {said}{more}"


class Case:
    """A folder in which runs start."""

    def __init__(self, folder: Path, config: Path, data: Path):
        self.folder = folder
        self.output = folder / "output"
        self._flags = ["--config-file", str(config)]
        self._datasets = {}
        for split in ("train", "val"):
            names = (f"tiny_{split}", data / "annotations" / f"{split}.json", data / split)
            self._datasets[split] = ["--dataset", *map(str, names)]
        self._process: subprocess.Popen | None = None
        self._fault_at = 0.0

    def start(self, *opts: Any, limit: int | None = None, code: str = "") -> None:
        """Start train_net.py.

        Args:
            limit: the largest file that it can write, in bytes.
            code: Python that runs before it.
        """
        program = f"import sys, runpy; sys.argv[0] = {str(ROOT / 'train_net.py')!r}\n{code}\n"
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        command = ["-c", program] if code else [str(ROOT / "train_net.py")]
        flags = self._flags + self._datasets["train"]
        flags += self._datasets["val"] if TEST[1] in opts else []
        opts = (*opts, "OUTPUT_DIR", self.output)
        environment = {"PYTHONPATH": str(ROOT / "projects" / "QueryInst"), "OMP_NUM_THREADS": "1"}

        def limit_files() -> None:
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        with open(self.folder / "out", "w") as out, open(self.folder / "err", "w") as err:
            self._process = subprocess.Popen(
                [sys.executable, *command, *flags, *map(str, opts)],
                env={**os.environ, **environment},
                preexec_fn=limit_files,
                start_new_session=True,
                **{"stdout": out, "stderr": err, "cwd": self.folder},
            )
        self._fault_at = time.monotonic()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_for(self, text: str) -> None:
        """Wait until the run prints `text`; the fault is what comes now."""
        end = time.monotonic() + SECONDS
        while text not in (self.folder / "out").read_text():
            if time.monotonic() > end or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{text!r} was not printed: {(self.folder / 'err').read_text()}")
            time.sleep(0.02)
        self._fault_at = time.monotonic()

    def ranks(self) -> list[int]:
        """The processes that `launch` has started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(pid)
            for pid in children
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        ]

    def end(self) -> Seen:
        """Wait until all processes of the run have ended."""
        assert self._process is not None
        status = self._process.wait(SECONDS)
        while is_group_alive(self.pid) and time.monotonic() < self._fault_at + SECONDS:
            time.sleep(0.02)
        seconds = time.monotonic() - self._fault_at
        if is_group_alive(self.pid):
            os.killpg(self.pid, signal.SIGKILL)
        lines = (self.folder / "err").read_text().splitlines()
        traces = [x for x in lines if x.startswith(("Traceback", "  File ", "--- Logging error"))]
        said = [x for x in lines if x.startswith(SAID)]
        status = status if status >= 0 else 128 - status
        return Seen(status, said, len(traces), seconds, self._checkpoints())

    def run(self, *opts: Any, **kwargs: Any) -> Seen:
        """Start, and wait for the end."""
        self.start(*opts, **kwargs)
        return self.end()

    def _checkpoints(self) -> str:
        paths = list(self.output.glob("model_*.pth"))
        tag = self.output / "last_checkpoint"
        last = tag.read_text(errors="replace")[:40] if tag.exists() else "none"
        return f"{sum(map(_is_readable, paths))}/{len(paths)} checkpoints, last {last}"


def is_group_alive(group: int) -> bool:
    """Whether a process of this group runs."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, other = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(other) == group and state != "Z":  # a zombie only waits for the system
            return True
    return False


def _is_readable(path: Path) -> bool:
    try:
        weights = torch.load(path, weights_only=True)["model"].values()
    except Exception:
        return False
    return all(bool(value.isfinite().all()) for value in weights)


class Fault(NamedTuple):
    """One row."""

    name: str
    expected: str
    happen: Callable[[Case], Seen]
    is_expected: Callable[[Seen], bool]


def is_stopped(seen: Seen) -> bool:
    return seen.status == 75 and not seen.lines and not seen.num_other_lines and _has_all(seen)


def _has_all(seen: Seen) -> bool:
    readable, total = seen.checkpoints.split(" ")[0].split("/")
    return readable == total


def says(*texts: str, status: int = 1) -> Callable[[Seen], bool]:
    """Whether one line with all texts is said, no traceback, and all checkpoints are whole."""

    def check(seen: Seen) -> bool:
        one = len(seen.lines) == 1 and all(text in seen.lines[0] for text in texts)
        return seen.status == status and one and not seen.num_other_lines and _has_all(seen)

    return check


def is_done(seen: Seen) -> bool:
    return seen.status == 0 and not seen.lines and _has_all(seen)
