"""Signals that end a run: a training finishes its step and writes a checkpoint first."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from detectron2.utils import comm
from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# From a launcher to its processes. A signal of its own, since a terminal's reaches both, and must
# not count twice.
FORWARDED = signal.SIGUSR2
STATUS_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run again, with --resume
_KEY = "queryinst/stop"  # in the process group's store
_SECONDS_BETWEEN_LOOKS = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal ended the run at once."""

    def __init__(self, number: int):
        super().__init__(f"ended by {name_of(number)}")
        self.number = number
        self.status = 128 + number  # as a shell reports it


class Stopped(Interrupted):
    """A signal ended a training, whose last checkpoint is that of its last iteration."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = STATUS_STOPPED


class EvaluationStopped(Exception):
    """An evaluation within a training was left, in all processes."""


def name_of(number: int) -> str:
    """As a person calls the signal."""
    name = signal.Signals(number).name
    return "a signal to the launcher" if number == FORWARDED else name


def leave(number: int, num_done: int, max_iter: int) -> NoReturn:
    """Leave a training after so many iterations, the last of which has a checkpoint."""
    logger.info(
        f"Stopped by {name_of(number)} after {num_done} of {max_iter} iterations, with a "
        "checkpoint; --resume goes on"
    )
    raise Stopped(number)


class StopSignals:
    """What the signals of this process ask for; `stop` is the only one.

    The first signal raises Interrupted, or within `deferred` is only remembered. The second has
    the default action, which ends even a process that hangs.
    """

    def __init__(self) -> None:
        self.number = 0  # the first signal, 0 without any
        self.is_active = False  # whether signals are handled
        self.left_evaluation_by = 0  # the signal that ended an evaluation within a training
        self._is_deferred = False
        self._looked_at = 0.0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGNALS, if this is the main thread; the handlers of before return afterwards."""
        if self.is_active or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (*SIGNALS, FORWARDED)}
        for number in before:
            signal.signal(number, self._handle)
        self.is_active, self.number = True, 0
        try:
            yield
        finally:
            self.is_active, self.left_evaluation_by = False, 0
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal is only remembered."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: Any) -> None:
        if number != FORWARDED:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        if self.number:
            return
        self.number = number
        if not self._is_deferred:
            raise Interrupted(number)

    def agreed(self) -> int:
        """The first signal to any process, or 0. All call it, and all get the same answer."""
        if not self.is_active:
            return 0
        if comm.get_world_size() == 1:
            return self.number
        # Not written back to `number`, which a signal may change meanwhile. On gloo, so that no
        # GPU is waited for.
        number = torch.tensor(self.number)
        group = comm._get_global_gloo_group()
        distributed.all_reduce(number, distributed.ReduceOp.MAX, group)
        return int(number)

    def is_near(self) -> bool:
        """Whether any process has had a signal, as far as this one knows within a second or so."""
        if not self.is_active or comm.get_world_size() == 1:
            return self.is_active and self.number > 0
        now = time.monotonic()
        if self.number or now - self._looked_at > _SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            store = _get_default_store()
            if self.number:
                store.set(_KEY, "")
            return store.check([_KEY])
        return False


class StoppableLoader:
    """An evaluation's loader that ends early in all processes after a signal to any of them."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            EvaluationStopped: behind the last batch, in all processes.
        """
        for batch in self._loader:
            if stop.is_near():
                break
            yield batch
        if number := stop.agreed():
            stop.left_evaluation_by = number
            raise EvaluationStopped


stop = StopSignals()
_forks_in_main_thread = True


def _before_fork() -> None:
    global _forks_in_main_thread
    _forks_in_main_thread = threading.current_thread() is threading.main_thread()


def _in_forked_child() -> None:
    """Leave the signals of a terminal to the parent, and end with it.

    Forked children are the loaders' workers. One that a signal ended would fail the step that is
    to be finished.
    """
    if not stop.is_active:
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR1, FORWARDED):
        signal.signal(number, signal.SIG_IGN)
    if _forks_in_main_thread:  # it is the thread whose end counts as the parent's
        _prctl_pr_set_pdeathsig(signal.SIGKILL)


os.register_at_fork(before=_before_fork, after_in_child=_in_forked_child)
