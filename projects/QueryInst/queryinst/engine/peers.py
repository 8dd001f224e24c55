"""Errors that several processes see: said once, by the one that knows who is to blame."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from detectron2.utils import comm
from torch import distributed
from torch.distributed import distributed_c10d

from .errors import _LOST_PEER
from .nonfinite import NonFiniteError

_TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)
_SECONDS_TO_ANSWER = 5  # for processes that wait as well, and for the store
_SECONDS_TO_SPEAK = 20  # for the process that knows more; the launcher ends this one by then
_KEY = "queryinst/waited/"


@contextmanager
def speaking_once(timeout_minutes: float) -> Iterator[None]:
    """Turn the end of a wait inside into an error that names the processes that did not arrive.

    Processes that know less than another wait, so that the launcher reports that one.

    Args:
        timeout_minutes: DISTRIBUTED.TIMEOUT_MINUTES, of the process group around this.

    Raises:
        TimeoutError: the line. Other errors stay as they are.
    """
    if comm.get_world_size() == 1:
        yield
        return
    _limit_side_group(timedelta(minutes=timeout_minutes))
    try:
        yield
    except FloatingPointError as error:
        cause = error.__cause__
        if isinstance(cause, NonFiniteError) and comm.get_rank() != min(cause.ranks, default=0):
            time.sleep(_SECONDS_TO_SPEAK)
        raise
    except RuntimeError as error:
        if not _LOST_PEER.search(str(error)):
            raise
        has_timed_out = bool(_TIMED_OUT.search(str(error)))
        _say_that_this_waited(has_timed_out)
        if not has_timed_out:
            raise
        waited = _processes_that_waited()
        if min(rank for rank, timed_out in waited.items() if timed_out) != comm.get_rank():
            raise
        raise TimeoutError(_describe(waited, timeout_minutes)) from error


def _limit_side_group(timeout: timedelta) -> None:
    """Beside NCCL, Detectron2 gathers objects in a group of its own, with gloo."""
    if distributed.get_backend() == "nccl":
        distributed_c10d._set_pg_timeout(timeout, comm._get_global_gloo_group())


def _say_that_this_waited(has_timed_out: bool) -> None:
    store = distributed_c10d._get_default_store()
    store.set(f"{_KEY}{comm.get_rank()}", str(int(has_timed_out)))


def _processes_that_waited() -> dict[int, bool]:
    """Listen which other processes waited in vain.

    Returns:
        By rank, whether the time was up there, or a connection was lost. This one is among them.
    """
    waited = {comm.get_rank(): True}
    # The store does not answer if the process that holds it is stopped.
    thread = threading.Thread(target=_listen, args=(waited,), daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_ANSWER + 1)
    return dict(waited)


def _listen(waited: dict[int, bool]) -> None:
    store, world = distributed_c10d._get_default_store(), range(comm.get_world_size())
    end = time.monotonic() + _SECONDS_TO_ANSWER
    while time.monotonic() < end and len(waited) < len(world):
        for rank in world:
            if rank not in waited and store.check([f"{_KEY}{rank}"]):
                waited[rank] = store.get(f"{_KEY}{rank}") == b"1"
        time.sleep(0.1)


def _describe(waited: dict[int, bool], minutes: float) -> str:
    absent = [rank for rank in range(comm.get_world_size()) if rank not in waited]
    who = ", ".join(map(str, absent))
    subject = f"rank{'s' * (len(absent) > 1)} {who}" if absent else "an answer"
    return (
        f"{subject} did not arrive within {minutes:g} minutes where rank "
        f"{', '.join(map(str, sorted(waited)))} waited: a process hangs, or needs longer; look at "
        "its log and its machine, or raise DISTRIBUTED.TIMEOUT_MINUTES"
    )
