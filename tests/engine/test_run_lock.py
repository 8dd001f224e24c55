import errno
import fcntl
import logging
import os
import re
import signal
import time

import pytest

from queryinst.engine.run_lock import LOCK_FILE, FolderInUseError, locked


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_locked_refuses_a_second_run_and_names_the_first(tmp_path):
    with locked(str(tmp_path)):
        before = contents(tmp_path)
        with pytest.raises(FolderInUseError, match="is in use by process") as raised:
            with locked(str(tmp_path)):
                raise AssertionError("two runs")
        assert contents(tmp_path) == before
    line = str(raised.value)
    assert f"process {os.getpid()} on {os.uname().nodename}, started " in line and "\n" not in line
    assert "set another OUTPUT_DIR" in line
    with locked(str(tmp_path)):  # it is free again
        pass


def test_locked_takes_over_the_lock_of_a_killed_process_whose_worker_lives_on(tmp_path):
    read, write = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(str(tmp_path)):
            worker = os.fork()
            if worker == 0:
                os.write(write, f"{os.getpid()} ".encode())
                time.sleep(60)
                os._exit(0)
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(read, 20))
    with pytest.raises(FolderInUseError, match=f"process {holder} "), locked(str(tmp_path)):
        pass
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.kill(worker, 0)  # lives
    with locked(str(tmp_path)):
        assert re.match(rf"process {os.getpid()} on ", (tmp_path / LOCK_FILE).read_text())
    os.kill(worker, signal.SIGKILL)


def test_locked_goes_on_without_locks_of_the_file_system(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(logging.getLogger("queryinst"), "propagate", True)
    with locked(str(tmp_path)):
        pass
    assert "cannot be locked (No locks available)" in caplog.text


def test_locked_leaves_remote_folders_alone():
    with locked("s3://bucket/run"):
        pass
