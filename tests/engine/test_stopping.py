import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from queryinst.engine import stopping
from queryinst.engine.stopping import (
    FORWARDED,
    SIGNALS,
    EvaluationStopped,
    Interrupted,
    StoppableLoader,
    Stopped,
    StopSignals,
    stop,
)


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def two_processes(monkeypatch):
    """A function that gives this process a peer, with its first signal and what happens in it."""

    def pair(peers_number, meanwhile=lambda: None, told=()):
        def all_reduce(tensor, operation, group):
            meanwhile()
            tensor.fill_(max(int(tensor), peers_number))

        store = SimpleNamespace(keys=set(told))
        store.set = lambda key, value: store.keys.add(key)
        store.check = lambda keys: store.keys.issuperset(keys)
        monkeypatch.setattr(stopping.comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(stopping.comm, "_get_global_gloo_group", lambda: None)
        monkeypatch.setattr(stopping.distributed, "all_reduce", all_reduce)
        monkeypatch.setattr(stopping, "_get_default_store", lambda: store)
        return store

    return pair


@pytest.mark.parametrize(
    "number, status, name",
    [
        (signal.SIGINT, 130, "SIGINT"),
        (signal.SIGTERM, 143, "SIGTERM"),
        (signal.SIGUSR1, 138, "SIGUSR1"),
        (FORWARDED, 128 + FORWARDED, "a signal to the launcher"),
    ],
)
def test_stop_signals_end_at_once_unless_deferred(number, status, name):
    with pytest.raises(Interrupted, match=f"^ended by {name}$") as raised, StopSignals().handled():
        send(number)
    assert raised.value.status == status and not isinstance(raised.value, Stopped)
    assert Stopped(number).status == 75


def test_stop_signals_restore_the_handlers_of_before():
    before = [signal.getsignal(number) for number in (*SIGNALS, FORWARDED)]
    signals = StopSignals()
    with signals.handled(), signals.handled(), signals.deferred():
        assert signal.getsignal(signal.SIGTERM) == signals._handle
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (*SIGNALS, FORWARDED)] == before
    assert not signals.is_active and signals.agreed() == 0


@pytest.mark.parametrize("first", SIGNALS)
def test_stop_signals_remember_a_deferred_one_and_leave_the_second_to_the_system(first):
    signals = StopSignals()
    with signals.handled(), signals.deferred():
        assert signals.agreed() == 0 and not signals.is_near()
        send(first)
        assert signals.agreed() == first and signals.is_near()
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}


def test_stop_signals_end_the_process_at_the_second():
    child = os.fork()
    if child == 0:
        with stop.handled(), stop.deferred():
            send(signal.SIGUSR1)
            send(signal.SIGTERM)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM


def test_stop_signals_count_a_terminals_signal_and_the_launchers_as_one():
    signals = StopSignals()
    with signals.handled(), signals.deferred():
        send(FORWARDED)
        assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL
        send(signal.SIGINT)
        send(FORWARDED)
        assert signals.agreed() == FORWARDED


def test_stop_signals_are_left_alone_in_other_threads():
    def look():
        with StopSignals().handled() as _:
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("peers", [0, signal.SIGUSR1])
def test_stop_signals_agree_on_any_processs_signal(two_processes, peers):
    two_processes(peers)
    signals = StopSignals()
    assert signals.agreed() == 0, "nothing is asked without handlers"
    with signals.handled(), signals.deferred():
        assert signals.agreed() == peers


def test_stop_signals_do_not_lose_one_that_comes_while_they_agree(two_processes):
    two_processes(0, meanwhile=lambda: signals.number or send(signal.SIGTERM))
    signals = StopSignals()
    with signals.handled(), signals.deferred():
        assert signals.agreed() == 0, "the peer does not know it yet"
        assert signals.agreed() == signal.SIGTERM


def test_stop_signals_tell_and_are_told_through_the_store(two_processes):
    store = two_processes(0)
    signals = StopSignals()
    with signals.handled(), signals.deferred():
        signals._looked_at = -10.0
        assert not signals.is_near()
        store.set("queryinst/stop", "")
        assert not signals.is_near(), "it looks once a second"
        signals._looked_at = -10.0
        assert signals.is_near()
        store.keys.clear()
        send(signal.SIGUSR1)
        assert signals.is_near() and store.keys == {"queryinst/stop"}


def test_stoppable_loader_gives_everything_without_a_signal():
    loader = StoppableLoader([1, 2, 3])
    assert list(loader) == [1, 2, 3] and len(loader) == 3 and loader.index(2) == 1


def test_stoppable_loader_ends_before_the_next_image():
    taken = []
    with stop.handled(), stop.deferred():
        with pytest.raises(EvaluationStopped):
            for image in StoppableLoader(range(100)):
                taken.append(image)
                if image == 1:
                    send(signal.SIGTERM)
        assert taken == [0, 1] and stop.left_evaluation_by == signal.SIGTERM
    assert not stop.left_evaluation_by, "the next run in this process knows nothing of it"


def test_stoppable_loader_leaves_the_evaluation_if_a_peer_did(two_processes):
    two_processes(signal.SIGTERM)
    with stop.handled(), stop.deferred(), pytest.raises(EvaluationStopped):
        list(StoppableLoader([1]))


def test_forked_children_ignore_a_terminals_signals_and_end_with_their_parent():
    read, write = os.pipe()

    def parent_and_child():
        with stop.handled(), stop.deferred():
            child = os.fork()
            if child == 0:
                for number in (signal.SIGINT, signal.SIGUSR1, FORWARDED):
                    send(number)
                os.write(write, b"alive")
                time.sleep(60)  # the write end of the pipe is open as long as it lives
            os.read(read, 5) == b"alive" and os.kill(os.getpid(), signal.SIGKILL)

    parent = os.fork()
    if parent == 0:
        try:
            parent_and_child()
        finally:
            os._exit(1)
    os.close(write)
    assert os.waitpid(parent, 0)[1] == signal.SIGKILL
    assert os.read(read, 1) == b""  # at once: the child is gone
    os.close(read)
