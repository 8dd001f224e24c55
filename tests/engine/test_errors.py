import logging

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from queryinst.engine.errors import RunFailedError, describe_error, failing_in_one_line

LOADER = """Caught {name} in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/x/torch/utils/data/_utils/worker.py", line 351, in _worker_loop
    data = fetcher.fetch(index)
ValueError: an earlier one: not this

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/data/images.py", line 40, in read_image
    raise {name}(
{name}: {text}
"""
CHILD = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/x/torch/multiprocessing/spawn.py", line 90, in _wrap
    fn(i, *args)
  File "/x/queryinst/engine/errors.py", line 70, in failing_in_one_line
    raise RunFailedError(line) from None
queryinst.engine.errors.RunFailedError: 7 images: set SOLVER.IMS_PER_BATCH
"""


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("a value\n  over lines"), "a value over lines"),
        (KeyError("unknown key X; did you mean Y?"), "unknown key X; did you mean Y?"),
        (KeyError("image_id"), "KeyError: image_id"),
        (FileNotFoundError("no file x"), "no file x"),
        (TypeError("'int' is not iterable"), "TypeError: 'int' is not iterable"),
        (AssertionError(), "AssertionError"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "ended with status 1, the log says why"),
        (RunFailedError("TypeError: kept"), "TypeError: kept"),
        (ProcessRaisedException(CHILD, 1, 7), "7 images: set SOLVER.IMS_PER_BATCH"),
    ],
)
def test_describe_error_gives_one_line(error, line):
    assert describe_error(error) == line


@pytest.mark.parametrize(
    "name, text, line",
    [
        ("FileNotFoundError", "image a.png: not there", "image a.png: not there"),
        ("ValueError", "image b.png\nof lines", "image b.png of lines"),
        ("TypeError", "no such argument", "TypeError: no such argument"),
        ("KeyError", "'bbox'", "KeyError: 'bbox'"),
        ("AssertionError", "", "AssertionError"),
    ],
)
def test_describe_error_takes_the_last_error_of_a_loaders_worker(name, text, line):
    raised = RuntimeError(LOADER.format(name=name, text=text).replace(f"{name}: \n", f"{name}\n"))
    assert describe_error(raised) == line


def test_describe_error_reads_a_real_worker():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("image c.png is broken: look at it") from error

    with pytest.raises(ValueError) as error:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert describe_error(error.value) == "image c.png is broken: look at it"


def test_failing_in_one_line_writes_the_traceback_only_to_the_log_file(tmp_path, capsys):
    (tmp_path / "log.txt").write_text("before\n")
    with pytest.raises(RunFailedError, match="^set X$") as raised:
        with failing_in_one_line(str(tmp_path)):
            raise ValueError("set X")
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("before\nTraceback") and "ValueError: set X" in log
    assert capsys.readouterr() == ("", "")
    assert raised.value.__suppress_context__


def test_failing_in_one_line_names_the_place_of_the_traceback(tmp_path, capsys):
    (tmp_path / "log.txt").touch()
    with pytest.raises(RunFailedError, match="^TypeError: what; traceback in .*log.txt$"):
        with failing_in_one_line(str(tmp_path)):
            raise TypeError("what")
    assert capsys.readouterr().err == ""


def test_failing_in_one_line_traces_only_unexplained_errors_without_a_log_file(tmp_path, capsys):
    for error in (ValueError("set X"), TypeError("what")):
        with pytest.raises(RunFailedError):
            with failing_in_one_line(str(tmp_path)):
                raise error
    trace = capsys.readouterr().err
    assert trace.count("Traceback") == 1 and trace.endswith("TypeError: what\n")
    assert not list(tmp_path.iterdir())


def test_failing_in_one_line_holds_back_the_training_loops_traceback(tmp_path, monkeypatch):
    messages = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: messages.append(record.getMessage()))
    loop = logging.getLogger("detectron2.engine.train_loop")
    monkeypatch.setattr(loop, "handlers", [handler])
    monkeypatch.setattr(loop, "level", logging.INFO)
    with pytest.raises(RunFailedError):
        with failing_in_one_line(str(tmp_path)):
            loop.info("step")
            try:
                raise ValueError("set X")
            except ValueError:
                loop.exception("traced")
                raise
    loop.exception("after")
    assert messages == ["step", "after"]
