"""Downloads end with the right file or with none, however they are disturbed."""

import errno
import hashlib
import multiprocessing
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from queryinst.model_zoo import downloads
from queryinst.model_zoo.handler import cache_path, find_entry

FORK = multiprocessing.get_context("fork")


def stable(entry):
    return f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth"


def file_name(entry):
    return entry["url"].rpartition("/")[2]


@pytest.fixture
def entry(zoo, make_published):
    return zoo.publish(make_published(seed=1))


def in_one_line(error_type, path):
    with pytest.raises(error_type) as caught:
        PathManager.get_local_path(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load_in_child(path, results):
    torch.set_num_threads(1)
    results.put(PathManager.get_local_path(path))


def test_ensure_file_says_both_digests_of_a_wrong_file_and_leaves_nothing(zoo, make_published):
    body = make_published(seed=1)
    entry = zoo.publish(body, sha256_prefix="0123abcd")
    said = in_one_line(ValueError, stable(entry))
    assert hashlib.sha256(body).hexdigest() in said and "begin with 0123abcd" in said
    assert zoo.files() == []


@pytest.mark.parametrize("has_length", [True, False])
def test_ensure_file_leaves_nothing_of_a_truncated_download(zoo, server, entry, has_length):
    server.broken |= set(server.files)
    if has_length:
        size = len(next(iter(server.files.values())))
        said = in_one_line(ConnectionError, stable(entry))
        assert f"ended after {size // 2} of {size} bytes" in said and entry["url"] in said
    else:  # the digest is all that can tell
        server.without_length |= set(server.files)
        assert "was removed" in in_one_line(ValueError, stable(entry))
    assert zoo.files() == []
    server.broken.clear()
    assert Path(PathManager.get_local_path(stable(entry))).is_file()


def test_ensure_file_gives_up_a_server_that_goes_silent(zoo, server, entry, monkeypatch):
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.2)
    server.stalled |= set(server.files)
    assert "timed out" in in_one_line(ConnectionError, stable(entry))
    assert zoo.files() == []


def test_ensure_file_without_a_network_says_url_place_and_size(zoo, entry):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"http://127.0.0.1:{port}/{file_name(entry)}"
        zoo.write({**entry, "url": url})
        said = in_one_line(ConnectionError, stable(entry))
    place = Path(cache_path(find_entry(stable(entry)))).parent / file_name(entry)
    assert url in said and f"put it at {place}" in said and "about 7 MB" in said
    assert "refused" in said and zoo.files() == []


def test_ensure_file_accepts_a_file_put_there_by_hand(zoo, server, entry):
    place = Path(cache_path(find_entry(stable(entry)))).parent / file_name(entry)
    place.parent.mkdir(parents=True)
    place.write_bytes(next(iter(server.files.values())))
    converted = PathManager.get_local_path(stable(entry))
    assert torch.load(converted)["meta"]["digest"].startswith(entry["sha256_prefix"])
    assert server.requests == []


def test_ensure_file_refuses_and_keeps_a_wrong_file_put_there_by_hand(zoo, server, entry):
    place = Path(cache_path(find_entry(stable(entry)))).parent / file_name(entry)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    said = in_one_line(ValueError, stable(entry))
    assert str(place) in said and "left as it is" in said
    assert hashlib.sha256(b"by hand").hexdigest() in said and entry["sha256_prefix"] in said
    assert place.read_bytes() == b"by hand" and server.requests == []


def test_ensure_file_leaves_nothing_when_interrupted(zoo, server, entry, monkeypatch):
    def interrupted(url, file):
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PathManager.get_local_path(stable(entry))
    assert zoo.files() == []


def test_ensure_file_starts_again_after_a_killed_download(zoo, server, entry, wait_until):
    server.stalled |= set(server.files)
    child = FORK.Process(target=load_in_child, args=(stable(entry), FORK.SimpleQueue()))
    child.start()
    wait_until(lambda: server.requests and zoo.files())
    os.kill(child.pid, signal.SIGKILL)
    child.join(20)
    assert zoo.files() == [f"{file_name(entry)}.part"]
    server.stalled.clear()
    converted = PathManager.get_local_path(stable(entry))
    assert zoo.files() == sorted([Path(converted).name, file_name(entry)])
    assert len(server.requests) == 2


def test_ensure_file_does_not_wait_for_a_lock_of_another_process(zoo, server, entry):
    """As if a child had been killed that held what tqdm shares with forked processes."""
    with tqdm.get_lock():
        thread = threading.Thread(target=PathManager.get_local_path, args=(stable(entry),))
        thread.start()
        thread.join(20)
    assert not thread.is_alive() and file_name(entry) in zoo.files()


def test_ensure_file_removes_the_remains_of_a_killed_download(zoo, server, entry):
    place = Path(cache_path(find_entry(stable(entry)))).parent / file_name(entry)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(b"half")
    place.write_bytes(next(iter(server.files.values())))
    PathManager.get_local_path(stable(entry))
    assert not [name for name in zoo.files() if name.endswith(".part")]


def test_converted_file_of_processes_at_once_is_downloaded_once(zoo, server, entry, wait_until):
    server.stalled |= set(server.files)
    results = FORK.SimpleQueue()
    children = [FORK.Process(target=load_in_child, args=(stable(entry), results)) for _ in range(2)]
    for child in children:
        child.start()
    wait_until(lambda: server.requests)
    server.go_on.set()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    assert results.get() == results.get() == PathManager.get_local_path(stable(entry))
    assert len(server.requests) == 1


def test_converted_file_in_a_cache_that_cannot_be_written_is_one_line(zoo, server, entry):
    zoo.cache.mkdir()
    (zoo.cache / "queryinst").write_text("a file in the place of a folder")
    said = in_one_line(OSError, stable(entry))
    assert str(zoo.cache) in said and "set FVCORE_CACHE" in said
    assert server.requests == []


@pytest.mark.parametrize("step", ["download", "conversion"])
def test_converted_file_on_a_full_disk_is_one_line_and_leaves_nothing_half(
    zoo, entry, monkeypatch, step
):
    suffix, fsync = ".part" if step == "download" else ".tmp", os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    said = in_one_line(OSError, stable(entry))
    assert "No space left on device" in said and "set FVCORE_CACHE" in said
    assert zoo.files() == ([] if step == "download" else [file_name(entry)])
    monkeypatch.setattr(os, "fsync", fsync)
    assert Path(PathManager.get_local_path(stable(entry))).is_file()
