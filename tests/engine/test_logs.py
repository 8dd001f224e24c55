import io
import logging
import re
import sys

import pytest

from queryinst.engine import main
from queryinst.engine.logs import log_to

ESCAPE = "\x1b["
IGNORED = (DeprecationWarning, ResourceWarning)  # which Python does not show


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def say(monkeypatch, untouched_logging, tmp_path):
    """A function that logs, and returns what stdout and log.txt have of it."""

    def say(stream, name, level, text):
        monkeypatch.setattr(sys, "stdout", stream)
        log_to(str(tmp_path))
        logging.getLogger(name).log(level, text)
        return stream.getvalue(), (tmp_path / "log.txt").read_text()

    monkeypatch.delenv("NO_COLOR", raising=False)
    return say


def test_the_terminal_of_a_training_fits_one_screen_and_the_log_has_all(
    make_args, tmp_path, capsys, recwarn
):
    main(make_args("DATASETS.TEST", "('tiny_val',)", "SOLVER.MAX_ITER", 21))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if "iter: 20/21" in line)
    assert first <= 24 and len(lines) < 60 and err == ""
    assert re.search("  data +tiny_train: 6 images, 22 objects of 3 classes", out)
    assert re.search("  evaluation +tiny_val: 4 images, 12 objects; at the end", out)
    assert re.search("  model +QueryInst with 0.2 M param", out) and "  weights    none" in out
    assert "cpu, fp32" in out and f"  output     {tmp_path / 'output'}, " in out
    assert "eta: " in lines[first] and lines[-1].startswith("| tiny_val")
    for text in ("CUDNN_BENCHMARK", "Command line arguments", "creating index", "Serializing"):
        assert text not in out
    log = (tmp_path / "output" / "log.txt").read_text()
    assert ESCAPE not in out + log and set(lines) - {x for x in lines if x in log} != set(lines)
    for text in ("CUDNN_BENCHMARK", "Command line arguments", "Environment info", "Model:\n"):
        assert text in log
    assert [str(x.message) for x in recwarn if not issubclass(x.category, IGNORED)] == []


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_colours_are_for_terminals_alone(say, kind):
    line, log = say(kind(), "queryinst.test", logging.WARNING, "careful")
    assert (ESCAPE in line) == (kind is Terminal)
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert re.fullmatch(r"WARNING \[\d\d/\d\d [\d:]{8}\]: careful\n", plain)
    assert ESCAPE not in log and "queryinst.test WARNING: careful" in log


def test_no_color_is_heard(say, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in say(Terminal(), "queryinst", logging.WARNING, "plain")[0]


@pytest.mark.parametrize(
    "name, level, text, is_shown",
    [
        ("queryinst.engine", "INFO", "a", True),
        ("queryinst.engine", "DEBUG", "a", False),
        ("detectron2", "INFO", "a", False),
        ("detectron2", "INFO", "\x1b[38;5;204mSEED\x1b[39m: 1", False),
        ("detectron2.data.build", "WARNING", "a", True),
        (
            "detectron2.data.datasets.coco",
            "WARNING",
            "\nCategory ids in annotations are not in",
            False,
        ),
        ("detectron2.engine.train_loop", "INFO", "Starting training from iteration 0", True),
        ("detectron2.utils.events", "INFO", " iter: 1", True),
        ("detectron2.evaluation.evaluator", "INFO", "Inference done 11/200.", True),
        ("detectron2.evaluation.evaluator", "INFO", "Start inference", False),
        ("fvcore.common.checkpoint", "INFO", "a", False),
        ("fvcore.common.checkpoint", "ERROR", "a", True),
    ],
)
def test_the_terminal_shows_what_matters_and_the_file_all(say, name, level, text, is_shown):
    shown, log = say(io.StringIO(), name, getattr(logging, level), text)
    assert bool(shown) == is_shown and ESCAPE not in log
    assert re.sub(r"\x1b\[[\d;]*m", "", text).strip() in log
