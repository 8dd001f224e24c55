import errno
import threading

import pytest
import torch
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter, TensorboardXWriter

from queryinst.engine.writing import FileWriter, end_torn_line, naming, quiet_tensorboard_thread

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullDisk(EventWriter):
    def __init__(self):
        self.calls = 0

    def write(self):
        self.calls += 1
        raise FULL

    close = write


def test_file_writer_fails_once_and_names_the_file(tmp_path):
    disk = FullDisk()
    (tmp_path / "events.1").touch()
    writer = FileWriter(disk, str(tmp_path / "events.*"))
    with pytest.raises(OSError, match=r"^cannot write \S+/events.1 \(No space left on device\);"):
        writer.write()
    writer.write()
    writer.close()
    assert disk.calls == 1


def test_file_writer_names_a_metrics_file_on_a_full_disk(tmp_path, recwarn):
    path = tmp_path / "metrics.json"
    path.symlink_to("/dev/full")
    writer = FileWriter(JSONWriter(str(path)), str(path))
    with EventStorage() as storage:
        storage.put_scalar("x", 1.0)
        with pytest.raises(OSError, match="cannot write .*metrics.json"):
            writer.write()
    del writer  # the file's end does not fail a second time
    assert not list(recwarn)


def test_file_writer_raises_what_the_thread_for_tensorboard_meets(tmp_path, monkeypatch, capsys):
    from tensorboard.compat.tensorflow_stub.io import gfile

    def append(*args, **kwargs):
        raise FULL

    writer = FileWriter(TensorboardXWriter(str(tmp_path)), str(tmp_path / "events.*"))
    with EventStorage() as storage, quiet_tensorboard_thread():
        storage.put_scalar("x", 1.0)
        writer.write()
        monkeypatch.setattr(gfile.LocalFileSystem, "append", append)
        with pytest.raises(OSError, match="cannot write .*/events.out.tfevents"):
            for iteration in range(1, 50):
                storage.iter = iteration
                storage.put_scalar("x", 1.0)
                writer.write()
            writer.close()
    writer.close()
    assert capsys.readouterr().err == ""


def test_quiet_tensorboard_thread_shows_other_threads_errors():
    seen = []
    before, threading.excepthook = threading.excepthook, lambda args: seen.append(args.exc_value)
    try:
        with quiet_tensorboard_thread():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
    finally:
        threading.excepthook = before
    assert [type(error) for error in seen] == [ZeroDivisionError]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_naming_names_the_newest_file_of_a_full_disk(tmp_path, number):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "results.json").touch()
    with pytest.raises(OSError, match="cannot write .*/a/b/results.json"):
        with naming(f"{tmp_path}/**"):
            raise OSError(number, "full")


def test_naming_names_what_torch_could_not_write(tmp_path):
    path = tmp_path / "predictions.pth"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write .*predictions.pth"), naming(str(path)):
        with open(path, "wb") as file:
            torch.save(torch.zeros(100_000), file)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full", "named.txt"), OSError("no number"), RuntimeError("x")]
)
def test_naming_leaves_other_errors_alone(error):
    with pytest.raises(type(error)) as raised, naming("x"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "before, after",
    [(None, None), (b"", b""), (b"{}\n", b"{}\n"), (b'{}\n{"a": 1', b'{}\n{"a": 1\n')],
)
def test_end_torn_line_ends_only_a_torn_line(tmp_path, before, after):
    path = tmp_path / "metrics.json"
    if before is not None:
        path.write_bytes(before)
    end_torn_line(str(path))
    assert (path.read_bytes() if path.exists() else None) == after
