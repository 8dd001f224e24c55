"""A run that was stopped and resumed ends with the bits of one that was not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import defaults

from dev.reliability.tiny_training import SETTINGS, TinyTraining, differences
from queryinst.data.mapper import build_mapper
from queryinst.engine import Trainer, main, setup_cfg


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
    """Accumulation, bf16, activation checkpointing, crops, dropout, denoising, copy-paste, ..."""
    resumes_exactly(run, tmp_path, SETTINGS["all of these"])


def test_resume_is_exact_without_groups_with_sgd_and_precise_norms(run, tmp_path):
    opts = ("DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.OPTIMIZER", "SGD")
    opts += ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2)
    opts += ("TEST.EVAL_PERIOD", 2, "SOLVER.IMS_PER_BATCH", 3)
    resumes_exactly(run, tmp_path, opts, workers=(1, 0, 2))


def test_resume_is_exact_with_averaged_weights(run, tmp_path):
    """With validation losses, pictures, precise norms and early stopping, which is not reached."""
    opts = ("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.5, "VIS_PERIOD", 4)
    opts += ("DATASETS.TEST", ("reliability_val",), "TEST.EVAL_PERIOD", 3)
    opts += ("TEST.VALIDATION_LOSS", True, "TEST.EARLY_STOPPING_PATIENCE", 9)
    opts += ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1)
    resumes_exactly(run, tmp_path, opts, workers=(0, 0, 0))
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.json").read_text().splitlines()]
    again = [json.loads(x) for x in (tmp_path / "third/metrics.json").read_text().splitlines()]
    last = {key: value for key, value in lines[-1].items() if key.startswith("val_")}
    assert last and last.items() <= again[-1].items()


def test_new_keys_that_are_off_change_no_step(run, tmp_path):
    """What watches a training, and averages its weights, does not change them."""
    opts = ("SOLVER.MAX_ITER", 4, "DATASETS.TEST", ("reliability_val",), "TEST.EVAL_PERIOD", 2)
    plain = torch.load(run(tmp_path / "plain", *opts))
    assert "ema" not in plain
    opts += ("SOLVER.EMA.ENABLED", True, "VIS_PERIOD", 1, "TEST.VALIDATION_LOSS", True)
    other = torch.load(run(tmp_path / "other", *opts))
    assert plain["model"].keys() == other["ema"]["trained"].keys()
    trained = other["ema"]["trained"].items()
    assert all(torch.equal(plain["model"][name], value) for name, value in trained)


def test_resume_is_exact_with_a_drawn_seed(run, tmp_path):
    """SEED -1: the seed that the run drew stands in its checkpoints."""
    opts = ("SEED", -1, "SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_KEEP", 0)
    whole = run(tmp_path / "whole", *opts)
    resumed = run(stopped_copy(tmp_path / "whole", 3, tmp_path / "second"), *opts, resume=True)
    assert differences(resumed, whole) == []
    state = torch.load(whole)
    assert state["rng"]["seed"] == state["sampler"]["seed"] >= 0
    log = (tmp_path / "second" / "log.txt").read_text()
    assert f"Resuming with SEED {state['rng']['seed']}" in log
    assert torch.load(run(tmp_path / "other", *opts))["rng"] != state["rng"]


def test_resume_makes_up_for_an_evaluation_that_was_cut_off(run, tmp_path):
    """The best model is that of the first evaluation: all have the same AP."""
    opts = ("SOLVER.MAX_ITER", 6, "DATASETS.TEST", ("reliability_val",), "TEST.EVAL_PERIOD", 3)
    whole = run(tmp_path / "whole", *opts)
    second = stopped_copy(tmp_path / "whole", 3, tmp_path / "second")
    assert differences(run(second, *opts, resume=True), whole) == []
    records = [
        json.loads((x.parent / "model_best.json").read_text()) for x in (whole, second / "x")
    ]
    assert records[0] == records[1] and records[0]["iteration"] == 2
    assert differences(whole.parent / "model_best.pth", second / "model_best.pth") == []
    lines = [json.loads(line) for line in (second / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "segm/AP" in line][0] == 2
    log = (second / "log.txt").read_text()
    assert log.count("Evaluating iteration 2, which may have been cut off") == 1


def test_resume_goes_on_with_other_batches_and_says_so(run, tmp_path):
    run(tmp_path / "whole", "SOLVER.MAX_ITER", 3)
    again = ("SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 2, "SEED", 2)
    resumed = run(stopped_copy(tmp_path / "whole", 3, tmp_path / "second"), *again, resume=True)
    log = (tmp_path / "second" / "log.txt").read_text()
    assert log.count("images_per_process was 4 and is 2") == 1
    assert log.count("Resuming with SEED 1, which this run began with, not 2") == 1
    before, after = (
        torch.load(x)["sampler"] for x in (tmp_path / "whole/model_final.pth", resumed)
    )
    taken = [10 * x["epoch"] + x["offset"] - len(x["held"]) for x in (before, after)]
    assert taken == [3 * 4, 3 * 4 + 3 * 2] and after["seed"] == 1


def test_resume_of_an_older_checkpoint_warns_once_and_goes_on(run, tmp_path):
    run(tmp_path / "whole", "SOLVER.MAX_ITER", 3)
    second = stopped_copy(tmp_path / "whole", 3, tmp_path / "second")
    path = second / "model_0000002.pth"
    state = torch.load(path)
    del state["sampler"], state["rng"]
    torch.save(state, path)
    opts = ("SOLVER.MAX_ITER", 5, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    resumed = torch.load(run(second, *opts, resume=True))["sampler"]
    assert 10 * resumed["epoch"] + resumed["offset"] == 5 * 4
    log = (second / "log.txt").read_text()
    assert log.count("holds no place in the order of images") == 1 and "anew" not in log


class OwnLoaderTrainer(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=build_mapper(cfg, is_train=True))


class Average:
    """A checkpointable of a later feature."""

    value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_resume_takes_loaders_and_checkpointables_of_others(
    training, untouched_logging, tmp_path, capsys
):
    def trainer(resume):
        args = training.args(tmp_path / "own", "SOLVER.MAX_ITER", 2)
        trainer = OwnLoaderTrainer(setup_cfg(args.config_file, args.opts))
        trainer.checkpointer.add_checkpointable("ema", Average())
        trainer.resume_or_load(resume=resume)
        return trainer

    first = trainer(resume=False)
    first.checkpointer.checkpointables["ema"].value = 0.5
    first.train()
    assert "sampler" not in torch.load(tmp_path / "own" / "model_final.pth")
    resumed = trainer(resume=True)
    assert resumed.start_iter == 2 and resumed.checkpointer.checkpointables["ema"].value == 0.5
    assert capsys.readouterr().out.count("a loader of your own (AspectRatioGrouped") == 1
