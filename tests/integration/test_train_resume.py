import pytest
import torch

from queryinst.engine import Trainer, main, run, setup_cfg
from queryinst.testing import random_batch

SCHEDULE = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 0.001)
SCHEDULE += ("SOLVER.STEPS", (3,), "SOLVER.WARMUP_ITERS", 3)


class Batches:
    """Batches that depend on the iteration alone, from `start` on."""

    start = 0

    def __iter__(self):
        iteration = self.start
        while True:
            yield random_batch((2, 1), height=64, width=64, seed=1000 + 10 * iteration)
            iteration += 1


class OrderedTrainer(Trainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return Batches()


def train(args, resume=False, stop_after=None):
    """The trainer at its end; `stop_after` steps it is interrupted."""
    torch.manual_seed(5)
    trainer = OrderedTrainer(setup_cfg(args.config_file, args.opts))
    trainer.resume_or_load(resume=resume)
    trainer.data_loader.start = trainer.start_iter
    run_step = trainer.run_step

    def run_or_stop():
        if trainer.iter == stop_after:
            raise KeyboardInterrupt
        run_step()

    trainer.run_step = run_or_stop
    if stop_after is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return trainer


def state(trainer):
    """Everything that a step changes: weights, batch statistics, the optimizer's moments."""
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return tensors


def test_resume_equals_an_uninterrupted_run(make_args, tmp_path):
    uninterrupted = train(make_args(*SCHEDULE, "OUTPUT_DIR", tmp_path / "one"))
    initial = {name: value.clone() for name, value in state(uninterrupted).items()}
    args = make_args(*SCHEDULE, "OUTPUT_DIR", tmp_path / "two")
    # One step beyond the checkpoint, which is lost and done again.
    stopped = train(args, stop_after=3)
    assert (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000001.pth"
    assert any(not torch.equal(value, initial[name]) for name, value in state(stopped).items())
    resumed = train(args, resume=True)
    assert resumed.start_iter == 2 and resumed.iter == 4
    assert state(resumed).keys() == state(uninterrupted).keys()
    for name, value in state(uninterrupted).items():
        torch.testing.assert_close(state(resumed)[name], value, rtol=0, atol=1e-6, msg=name)
    rates = [[g["lr"] for g in t.optimizer.param_groups] for t in (resumed, uninterrupted)]
    assert rates[0] == pytest.approx(rates[1])


def test_resume_logs_once_that_there_is_nothing_and_starts_from_the_weights(make_args, tmp_path):
    first = train(make_args("SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path / "first"))
    weights = tmp_path / "first" / "model_final.pth"
    opts = ("MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-9)
    main(make_args(*opts, "SEED", 3, resume=True))
    log = (tmp_path / "output" / "log.txt").read_text()
    assert log.count("Nothing to resume from") == 1
    assert f"starting from MODEL.WEIGHTS {weights}" in log
    assert "Starting training from iteration 0" in log
    final = torch.load(tmp_path / "output" / "model_final.pth")["model"]
    for name, value in first.model.named_parameters():
        torch.testing.assert_close(final[name], value.data, rtol=0, atol=1e-6, msg=name)


def test_resume_writes_the_final_checkpoint_of_a_run_that_was_killed_before_it(make_args, tmp_path):
    opts = ("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    train(make_args(*opts))
    output = tmp_path / "output"
    expected = torch.load(output / "model_final.pth")
    (output / "model_final.pth").unlink()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    assert run(make_args(*opts, resume=True)) == 0
    final = torch.load(output / "model_final.pth")
    assert final["iteration"] == 1 and final["trainer"]["iteration"] == 1
    assert all(x.equal(final["model"][name]) for name, x in expected["model"].items())
    assert (output / "last_checkpoint").read_text() == "model_final.pth"


def test_resume_only_evaluates_a_finished_run(make_args, tmp_path):
    opts = ("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "('tiny_val',)")
    first = main(make_args(*opts))
    output = tmp_path / "output"
    before = torch.load(output / "model_final.pth")["model"]
    (output / "results.json").unlink()
    assert main(make_args(*opts, resume=True)).keys() == first.keys()
    after = torch.load(output / "model_final.pth")["model"]
    assert all(torch.equal(before[name], value) for name, value in after.items())
    log = (output / "log.txt").read_text()
    assert log.count(" iter: ") == 1 and (output / "results.json").exists()


def test_resume_counts_earlier_checkpoints_among_those_to_keep(make_args, tmp_path):
    opts = ("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2)
    main(make_args(*opts, "SOLVER.MAX_ITER", 2))
    main(make_args(*opts, "SOLVER.MAX_ITER", 3, resume=True))
    names = {path.name for path in (tmp_path / "output").glob("model_*.pth")}
    assert names == {"model_0000001.pth", "model_0000002.pth", "model_final.pth"}


def test_resume_refuses_a_checkpoint_of_another_model(make_args, tmp_path):
    main(make_args("SOLVER.MAX_ITER", 1))
    with pytest.raises(ValueError, match="to resume from, by .*last_checkpoint") as error:
        main(make_args("MODEL.QUERYINST.NUM_STAGES", 3, resume=True))
    assert "NUM_STAGES" in str(error.value)
