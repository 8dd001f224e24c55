"""Whole runs that meet a damaged checkpoint, or weights that are not finite."""

import shutil

import pytest
import torch

from queryinst.engine import Trainer, main

OPTS = ("SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TEST", "()")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def output(make_args, run_folder, tmp_path):
    """OUTPUT_DIR of a run of two iterations, done once."""
    if not (run_folder / "model_final.pth").exists():
        main(make_args(*OPTS, "SOLVER.MAX_ITER", 2))
        shutil.copytree(tmp_path / "output", run_folder, dirs_exist_ok=True)
    shutil.copytree(run_folder, tmp_path / "output", dirs_exist_ok=True)
    return tmp_path / "output"


def test_main_resumes_from_the_checkpoint_before_a_damaged_one(make_args, output):
    for name in ("model_final.pth", "model_0000001.pth"):
        path = output / name
        path.write_bytes(path.read_bytes()[:-5000])
    (output / "last_checkpoint").write_bytes(b"")
    main(make_args(*OPTS, "SOLVER.MAX_ITER", 2, resume=True))
    log = (output / "log.txt").read_text()
    assert f"resuming from {output / 'model_0000000.pth'} instead" in log
    assert "Starting training from iteration 1" in log
    assert (output / "last_checkpoint").read_text() == "model_final.pth"


def test_main_evaluates_no_weights_that_are_not_finite(make_args, output):
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    name = "cascade.stages.0.ffn_in.weight"
    checkpoint["model"][name][0] = float("nan")
    torch.save(checkpoint, output / "model_final.pth")
    weights = ("MODEL.WEIGHTS", str(output / "model_final.pth"))
    opts = ("DATASETS.TEST", "('tiny_val',)")
    with pytest.raises(ValueError, match=f"is not loaded: its tensor {name} has values"):
        main(make_args(*opts, *weights, eval_only=True))
    (output / "results.json").unlink(missing_ok=True)
    main(make_args(*opts, eval_only=True, resume=True))  # of the checkpoint before it
    assert (output / "results.json").exists()
    assert f"from {output / 'model_0000001.pth'} instead" in (output / "log.txt").read_text()


def test_main_ends_before_it_writes_weights_that_are_not_finite(make_args, output, monkeypatch):
    step = Trainer.run_step

    def spoiling_step(trainer):
        step(trainer)
        next(trainer.model.parameters()).data.view(-1)[0] = float("nan")

    monkeypatch.setattr(Trainer, "run_step", spoiling_step)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.pth")}
    with pytest.raises(FloatingPointError, match="model_0000002.pth is not written: its tensor "):
        main(make_args(*OPTS, "SOLVER.MAX_ITER", 4, resume=True))
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.pth")} == before
