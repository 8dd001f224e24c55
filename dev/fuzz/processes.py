"""Runs inputs in forked children with limits: a crash costs one input, and is known to be its."""

import contextlib
import faulthandler
import io
import json
import logging
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch

from .outcomes import CLEAR, FATAL, RIGHT, WARNED, WRONG, Verdict, judge

MARK = "executed"  # a folder of this name appears if an input runs code
_CPU_SECONDS, _WALL_SECONDS = 10, 60  # of one input
_MEMORY = 2 << 30  # bytes above what the process has when it is forked
_INPUTS_PER_CHILD = 250


class Kind(Protocol):
    """One kind of input."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Build once, before the forks, what all trials share."""

    def draw(self, seed: int) -> Any:
        """The input of a seed, of types that JSON has."""

    def names(self) -> Sequence[str]:
        """What a message can name, apart from keys."""

    def run(self, given: Any, folder: Path) -> str | None:
        """Try one input in an empty folder; raises what the project raises.

        Returns:
            Why a warning must be in the log, if one must.
        """


@dataclass
class _Worker:
    seeds: list[int]
    pid: int
    pipe: io.BufferedReader
    started: int | None = None
    since: float = 0.0


def run_all(
    kind: Kind, seeds: Sequence[int], draw: Callable[[int], Any], workers: int
) -> Iterator[tuple[int, Verdict]]:
    """(seed, verdict) of each seed, as they come.

    Args:
        draw: from a seed to an input, called in the child.
    """
    with tempfile.TemporaryDirectory(
        prefix="fuzz-"
    ) as folder, selectors.DefaultSelector() as ready:
        kind.prepare(Path(folder))
        for number in range(min(workers, len(seeds))):
            _fork(ready, kind, list(seeds[number::workers]), draw, folder)
        while ready.get_map():
            for key, _ in ready.select(timeout=1):
                yield from _listen(ready, key.data, kind, draw, folder)
            for key in list(ready.get_map().values()):
                if key.data.since and time.monotonic() - key.data.since > _WALL_SECONDS:
                    os.kill(key.data.pid, signal.SIGKILL)  # its pipe ends, which `_listen` reads


def _fork(
    ready: selectors.BaseSelector, kind: Kind, seeds: list[int], draw: Any, folder: str
) -> None:
    """Start a child with the seeds that are left, if any are."""
    if not seeds:
        return
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _work(kind, seeds[:_INPUTS_PER_CHILD], draw, Path(folder), os.fdopen(writing, "w"))
    os.close(writing)
    pipe = os.fdopen(reading, "rb", buffering=0)  # lest `select` should miss what is buffered
    ready.register(pipe, selectors.EVENT_READ, _Worker(seeds, pid, pipe))


def _listen(
    ready: selectors.BaseSelector, worker: _Worker, kind: Kind, draw: Any, folder: str
) -> Iterator[tuple[int, Verdict]]:
    """Read one line of a child: the start of an input, or its verdict. Without one it has ended."""
    line = worker.pipe.readline()
    message = json.loads(line) if line.endswith(b"\n") else None
    if isinstance(message, int):
        worker.started, worker.since = message, time.monotonic()
        return
    seed = worker.started
    if seed is not None:
        worker.seeds.remove(seed)
        worker.started, worker.since = None, 0.0
    if message is not None:
        assert seed is not None
        yield seed, Verdict(**message)
        return
    ready.unregister(worker.pipe)
    worker.pipe.close()
    status = os.waitpid(worker.pid, 0)[1]
    if seed is not None:
        yield seed, Verdict(FATAL, _describe_end(status))
    _fork(ready, kind, worker.seeds, draw, folder)


def _describe_end(status: int) -> str:
    number = os.waitstatus_to_exitcode(status)
    if number >= 0:
        return f"the process ended with status {number}"
    name = signal.Signals(-number).name
    limits = {
        "SIGXCPU": f" (more than {_CPU_SECONDS} s of processor time)",
        "SIGKILL": f" (more than {_WALL_SECONDS} s)",
    }
    return f"the process ended by {name}{limits.get(name, '')}"


def _work(kind: Kind, seeds: list[int], draw: Any, folder: Path, pipe: Any) -> NoReturn:
    """The child: try each input, and end without the parent's clean-up."""
    status = 1
    try:
        place = folder / f"child{os.getpid()}"
        _limit_this_process()
        for seed in seeds:
            place.mkdir()
            os.chdir(place)
            pipe.write(f"{seed}\n")
            pipe.flush()
            verdict = try_one(kind, draw(seed), place)
            pipe.write(f"{json.dumps(asdict(verdict))}\n")
            pipe.flush()
            shutil.rmtree(place, ignore_errors=True)
        status = 0
    finally:
        os._exit(status)


def _limit_this_process() -> None:
    torch.set_num_threads(1)  # a fork has no threads but its own
    faulthandler.disable()  # pytest's would write to its own stderr
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(devnull, descriptor)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def try_one(kind: Kind, given: Any, folder: Path) -> Verdict:
    """The verdict on one input; if the process lives on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with _recorded() as events:
        try:
            to_be_warned = kind.run(given, folder)
            silent = to_be_warned and not events.warnings
            verdict = Verdict(WRONG, to_be_warned) if silent else Verdict(RIGHT)
        except (Exception, SystemExit) as error:
            verdict = judge(error, (str(folder), str(folder.parent)), kind.names())
    if (folder / MARK).exists():
        return Verdict(WRONG, f"the input was executed ({verdict.line})")
    if events.addresses:
        return Verdict(WRONG, f"the network was asked for {events.addresses[0]}")
    if verdict.outcome == RIGHT and events.warnings:
        return Verdict(WARNED, events.warnings[0])
    return verdict


@dataclass
class _Events:
    warnings: list[str]
    addresses: list[str]


@contextlib.contextmanager
def _recorded() -> Iterator[_Events]:
    """Collect warnings, and refuse the network."""
    events = _Events([], [])

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.warnings.append(record.getMessage()[:200])

    def refuse(*address: Any, **_: Any) -> NoReturn:
        events.addresses.append(str(address)[:200])
        raise OSError("there is no network")

    handler, known = Handler(logging.WARNING), socket.getaddrinfo
    logging.getLogger().addHandler(handler)
    socket.getaddrinfo = refuse
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            yield events
        own = (warning for warning in raised if issubclass(warning.category, UserWarning))
        events.warnings += [str(warning.message)[:200] for warning in own]
    finally:
        socket.getaddrinfo = known
        logging.getLogger().removeHandler(handler)


def is_failure(verdict: Verdict) -> bool:
    """Whether the input shows a defect."""
    return verdict.outcome not in (RIGHT, WARNED, CLEAR)
