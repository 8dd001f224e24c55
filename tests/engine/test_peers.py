"""Who speaks if several processes fail, with a store that says who else waited."""

import time

import pytest
import torch
from detectron2.utils import comm
from torch import distributed

from queryinst.engine import peers
from queryinst.engine.nonfinite import NonFiniteError
from queryinst.engine.peers import speaking_once

# gloo's words
TIMED_OUT = "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 6000ms for recv operation"
CLOSED = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:12345"


@pytest.fixture
def rank(monkeypatch):
    """A function that makes this one of `world` processes, beside others that waited in vain."""
    monkeypatch.setattr(peers, "_SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(distributed, "get_backend", lambda: "gloo")
    slept = []
    sleep = time.sleep
    monkeypatch.setattr(peers.time, "sleep", lambda s: slept.append(s) if s > 1 else sleep(s))

    def make(number: int, world: int, others: dict[int, str]):
        store = distributed.HashStore()
        for other, value in others.items():
            store.set(f"queryinst/waited/{other}", value)
        monkeypatch.setattr(comm, "get_world_size", lambda: world)
        monkeypatch.setattr(comm, "get_rank", lambda: number)
        monkeypatch.setattr(peers.distributed_c10d, "_get_default_store", lambda: store)
        return store, slept

    return make


@pytest.mark.parametrize(
    "world, others, line",
    [
        (2, {}, "rank 1 did not arrive within 0.5 minutes where rank 0 waited: "),
        (4, {2: "1"}, "ranks 1, 3 did not arrive within 0.5 minutes where rank 0, 2 waited: "),
        (4, {1: "0", 3: "0"}, "rank 2 did not arrive within 0.5 minutes where rank 0, 1, 3 waited"),
        (2, {1: "1"}, "an answer did not arrive within 0.5 minutes where rank 0, 1 waited: "),
    ],
)
def test_speaking_once_names_the_processes_that_did_not_arrive(rank, world, others, line):
    rank(0, world, others)
    with pytest.raises(TimeoutError) as error, speaking_once(0.5):
        raise RuntimeError(TIMED_OUT)
    assert str(error.value).startswith(line)
    assert str(error.value).endswith("or raise DISTRIBUTED.TIMEOUT_MINUTES")


def test_speaking_once_lets_the_first_that_timed_out_speak(rank):
    store, _ = rank(2, 4, {0: "0", 1: "1"})
    with pytest.raises(RuntimeError, match="Timed out waiting"), speaking_once(0.5):
        raise RuntimeError(TIMED_OUT)
    assert store.get("queryinst/waited/2") == b"1"


def test_speaking_once_says_to_others_that_a_connection_was_lost(rank):
    store, _ = rank(1, 2, {})
    with pytest.raises(RuntimeError, match="Connection closed"), speaking_once(0.5):
        raise RuntimeError(CLOSED)
    assert store.get("queryinst/waited/1") == b"0"


def test_speaking_once_leaves_other_errors_alone(rank):
    store, slept = rank(1, 2, {})
    for error in (ValueError("set X"), RuntimeError("CUDA out of memory"), FloatingPointError("x")):
        with pytest.raises(type(error), match=str(error)), speaking_once(0.5):
            raise error
    assert not slept and not store.check(["queryinst/waited/1"])


@pytest.mark.parametrize(
    "number, ranks, waits", [(0, (), 0), (1, (), 1), (1, (1, 2), 0), (0, (1,), 1)]
)
def test_speaking_once_lets_the_process_at_fault_speak(rank, number, ranks, waits):
    _, slept = rank(number, 3, {})
    with pytest.raises(FloatingPointError, match="iteration 1"), speaking_once(0.5):
        raise FloatingPointError("iteration 1") from NonFiniteError("loss is nan", ranks)
    assert len(slept) == waits


def test_speaking_once_of_one_process_touches_nothing():
    with pytest.raises(RuntimeError, match="Timed out"), speaking_once(0.5):
        raise RuntimeError(TIMED_OUT)
    assert not torch.distributed.is_initialized()
