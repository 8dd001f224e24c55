"""A run that was stopped and resumed ends with the bits of one that was not."""

import shutil
from pathlib import Path

import pytest
from detectron2.engine import defaults

from dev.reliability.tiny_training import SETTINGS, TinyTraining, differences
from queryinst.engine import main


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return TinyTraining(tmp_path_factory.mktemp("reliability"))


@pytest.fixture
def run(training, untouched_logging, monkeypatch):
    """A function that runs to the end in a folder and returns the last checkpoint."""
    monkeypatch.setattr(defaults, "collect_env_info", lambda: "not looked at")  # takes a second

    def run(folder: Path, *opts, resume=False) -> Path:
        main(training.args(folder, *opts, resume=resume))
        return folder / "model_final.pth"

    return run


def stopped_copy(folder: Path, iteration: int, target: Path) -> Path:
    """What a run in `folder` would have left if it had been killed behind `iteration`."""
    target.mkdir()
    name = f"model_{iteration - 1:07d}.pth"
    shutil.copy(folder / name, target)
    (target / "last_checkpoint").write_text(name)
    return target


def resumes_exactly(run, tmp_path, opts, workers=(0, 2, 1)):
    """One uninterrupted run, one resumed at 3, and one resumed at the latter's 6; of 9."""
    opts = ("SOLVER.CHECKPOINT_KEEP", 0, "SOLVER.MAX_ITER", 9, *opts)
    key = "DATALOADER.NUM_WORKERS"
    whole = run(tmp_path / "whole", *opts, key, workers[0])
    second = stopped_copy(tmp_path / "whole", 3, tmp_path / "second")
    resumed = run(second, *opts, key, workers[1], resume=True)
    assert differences(resumed, whole) == []
    third = stopped_copy(second, 6, tmp_path / "third")
    assert differences(run(third, *opts, key, workers[2], resume=True), whole) == []
    early, late = (tmp_path / "whole" / f"model_{iteration:07d}.pth" for iteration in (2, 5))
    changed = differences(early, late)  # so that equal means something
    assert any(x.startswith("model.") for x in changed)
    assert any(x.startswith("trainer._trainer.optimizer.state.") for x in changed)
    return tmp_path


def test_resume_is_exact_with_all_at_once(run, tmp_path):
    """Accumulation, bf16, activation checkpointing, crops, dropout, evaluation in between."""
    resumes_exactly(run, tmp_path, SETTINGS["all of these"])


def test_resume_is_exact_without_groups_with_sgd_and_precise_norms(run, tmp_path):
    opts = ("DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.OPTIMIZER", "SGD")
    opts += ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2)
    opts += ("TEST.EVAL_PERIOD", 2, "SOLVER.IMS_PER_BATCH", 3)
    resumes_exactly(run, tmp_path, opts, workers=(1, 0, 2))
