import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from queryinst.engine import main, run, trackers
from queryinst.engine.trackers import TRACKERS
from queryinst.testing import tiny_cfg


class Fake(ModuleType):
    """What wandb and mlflow have in common, as far as a training calls them."""

    def __init__(self, name):
        super().__init__(name)
        self.calls, self.fails_in = [], ""

    def note(self, what, *args):
        if what == self.fails_in:
            raise ConnectionError("no route to host")
        self.calls.append((what, *args))

    def init(self, *, id, resume, name, dir, config):
        self.note("start", id, name, config["SOLVER"]["MAX_ITER"])
        return SimpleNamespace(id=id or "first", log=self.log_metrics, finish=self.finish)

    def start_run(self, run_id=None, run_name=None):
        self.note("start", run_id, run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "first"))

    def log_params(self, params):
        self.note("params", params["SOLVER.MAX_ITER"])

    def log_metrics(self, values, step):
        self.note("metrics", step, values)

    def finish(self, exit_code):
        self.note("end", exit_code)

    def end_run(self, status):
        self.note("end", status)


@pytest.fixture(params=["wandb", "mlflow"])
def fake(request, monkeypatch):
    module = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def options(fake, max_iter):
    return ("WRITERS", f"('{fake.__name__}',)", "SOLVER.MAX_ITER", max_iter)


def test_trackers_get_the_metrics_and_go_on_on_resume(fake, make_args, tmp_path):
    output = tmp_path / "output"
    main(make_args(*options(fake, 2), "DATASETS.TEST", "('tiny_val',)"))
    first, fake.calls = fake.calls, []
    assert first[0][:3] == ("start", None, "output") and first[-1][1] in (0, "FINISHED")
    sent = {step: values for what, step, *rest in first if what == "metrics" for values in rest}
    line, *_ = map(json.loads, (output / "metrics.json").read_text().splitlines())
    assert sent[1]["total_loss"] == pytest.approx(line["total_loss"])
    assert {"segm/AP", "bbox/AP", "lr"} <= {name for values in sent.values() for name in values}
    assert json.loads((output / "writers.json").read_text()) == {fake.__name__: "first"}
    main(make_args(*options(fake, 3), resume=True))
    assert fake.calls[0][:2] == ("start", "first")
    assert [x[1] for x in fake.calls if x[0] == "metrics"] == [2]
    assert not [x for x in fake.calls if x[0] == "params"]  # those of a run cannot change
    fake.calls = []
    main(make_args(*options(fake, 1)))
    assert fake.calls[0][:2] == ("start", None)  # a new training is a new run


@pytest.mark.parametrize("where", ["start", "metrics", "end"])
def test_trackers_that_fail_say_so_once_and_are_silent(fake, tmp_path, where, monkeypatch):
    lines = []
    monkeypatch.setattr(trackers.logger, "warning", lines.append)
    fake.fails_in = where
    tracker = TRACKERS[fake.__name__](tiny_cfg(OUTPUT_DIR=str(tmp_path)))
    tracker.trainer = SimpleNamespace(start_iter=0)
    tracker.close()  # of a run that failed before it began
    tracker.before_train()
    with EventStorage() as storage:
        for storage.iter in range(3):
            storage.put_scalars(total_loss=1.0, of_nothing=float("nan"))
            tracker.write()
    tracker.close()
    tracker.close()
    (line,) = lines
    assert line.startswith(f"{fake.__name__} gets nothing more") and "no route to host" in line
    sent = [values for what, _, *rest in fake.calls if what == "metrics" for values in rest]
    assert sent == ([{"total_loss": 1.0}] * 3 if where == "end" else [])


def test_trackers_learn_of_a_failure(fake, make_args, monkeypatch):
    def fail(self):
        raise RuntimeError("a step fails")

    monkeypatch.setattr("queryinst.engine.trainer.StepTrainer.run_step", fail)
    assert run(make_args(*options(fake, 2))) == 1
    assert fake.calls[-1] in [("end", 1), ("end", "FAILED")]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_writers_that_are_not_installed_are_an_error_before_the_training(
    name, make_args, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"WRITERS names '{name}', .*pip install {name}"):
        main(make_args("WRITERS", f"('{name}',)"))


def test_writers_are_of_the_known(make_args):
    with pytest.raises(ValueError, match="'wanb' must be one of wandb, mlflow; set WRITERS"):
        main(make_args("WRITERS", "('wanb',)"))
