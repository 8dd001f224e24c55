import json
import math

import pytest
import torch

from queryinst.engine import Trainer, main, run

OPTS = ("DATASETS.TEST", "('tiny_val',)", "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 8)
OPTS += ("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 0)


@pytest.fixture
def measure(monkeypatch):
    """A function that lets the evaluations behind iterations 1, 2, ... measure given values."""

    def measure(*values):
        evaluated, now = [], []

        def test(cls, cfg, model, evaluators=None):
            evaluated.append(now[-1])
            return {"segm": {"AP": values[now[-1] - 1]}}

        original = Trainer.evaluate

        def evaluate(self):
            now.append(min(self.iter + 1, self.max_iter))
            return original(self)

        monkeypatch.setattr(Trainer, "test", classmethod(test))
        monkeypatch.setattr(Trainer, "evaluate", evaluate)
        return evaluated

    return measure


def end_of(folder):
    log = (folder / "log.txt").read_text()
    final = torch.load(folder / "model_final.pth", weights_only=True)
    record = json.loads((folder / "model_best.json").read_text())
    return [x for x in log.splitlines() if "Early stopping" in x], final["iteration"], record


def test_early_stopping_ends_as_a_finished_run(make_args, measure, tmp_path):
    evaluated = measure(1.0, 3.0, 3.0, 2.0, 9.0)
    assert run(make_args(*OPTS, "TEST.EARLY_STOPPING_PATIENCE", 2)) == 0
    (line,), iteration, record = end_of(tmp_path / "output")
    assert evaluated == [1, 2, 3, 4]  # each once: the last is that of the end
    assert "segm/AP was never better than 3 of iteration 1 in 2 evaluations" in line
    assert "the training is done after 4 of 8 iterations" in line
    assert iteration == 3 and record["iteration"] == 1 and record["value"] == 3.0
    assert (tmp_path / "output" / "last_checkpoint").read_text() == "model_final.pth"
    lines = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert lines[-1]["iteration"] == 3 and lines[-1]["segm/AP"] == 2.0


def test_early_stopping_counts_on_over_a_resume(make_args, measure, tmp_path):
    values = (5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    measure(*values)
    output, patience = tmp_path / "output", "TEST.EARLY_STOPPING_PATIENCE"
    main(make_args(*OPTS, patience, 2))
    assert end_of(output)[1] == 2
    evaluated = measure(*values)
    assert run(make_args(*OPTS, patience, 2, resume=True)) == 0  # it is over already
    assert len(end_of(output)[0]) == 2 and end_of(output)[1] == 2 and evaluated == [3]
    main(make_args(*OPTS, patience, 4, resume=True))  # more patience goes on
    (*_, line), iteration, _ = end_of(output)
    assert iteration == 4 and "in 4 evaluations" in line


def test_early_stopping_counts_evaluations_without_a_finite_value(make_args, measure, tmp_path):
    measure(*[math.nan] * 8)
    main(make_args(*OPTS, "TEST.EARLY_STOPPING_PATIENCE", 3))
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "segm/AP had no finite value in 3 evaluations" in log


@pytest.mark.parametrize(
    "opts, said",
    [
        (("TEST.EVAL_PERIOD", 0), "counts evaluations, .* set TEST.EVAL_PERIOD"),
        (("DATASETS.TEST", "()"), "needs a data set to evaluate on; set DATASETS.TEST"),
    ],
)
def test_early_stopping_needs_evaluations(make_args, opts, said):
    with pytest.raises(ValueError, match=said):
        main(make_args(*OPTS, "TEST.EARLY_STOPPING_PATIENCE", 2, *opts))
