import shutil

import pytest
import torch
import yaml

from queryinst.engine import Trainer, main, run, setup_cfg
from queryinst.engine.resumed_config import changed_keys

SCHEDULE = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 0.001)
SCHEDULE += ("SOLVER.CHECKPOINT_KEEP", 0, "SOLVER.STEPS", "(3,)")


def test_changed_keys_are_those_that_both_know():
    def meta(**keys):
        return {"config": yaml.safe_dump({"VERSION": 2, "SOLVER": keys})}

    before = meta(BASE_LR=0.1, STEPS=[1, 2], GONE=1, OPTIMIZER="SGD")
    now = meta(BASE_LR=0.2, STEPS=(1, 2), NEW=1, OPTIMIZER="SGD")
    assert changed_keys(before, now) == {"SOLVER.BASE_LR": (0.1, 0.2)}
    assert changed_keys(None, now) == changed_keys(before, {}) == {}


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    """The folder of a training of 4 iterations."""
    folder = tmp_path_factory.mktemp("trained")
    with tiny_run(folder) as make:
        main(make(*SCHEDULE))
    return folder / "output"


@pytest.fixture
def stopped(trained, make_args, tmp_path):
    """Arguments of runs that resume this training behind the second iteration."""
    output = tmp_path / "output"
    output.mkdir()
    for name in ("model_0000001.pth", "model_final.pth"):
        shutil.copy(trained / name, output)
    (output / "last_checkpoint").write_text("model_0000001.pth")
    return lambda *opts: make_args(*SCHEDULE, *opts, resume=True)


def resume(args):
    trainer = Trainer(setup_cfg(args.config_file, args.opts))
    trainer.resume_or_load(resume=True)
    return trainer


def rates(trainer):
    """The full rate of each iteration that is left."""
    groups = trainer.optimizer.param_groups
    (group,) = [x for x in groups if x["initial_lr"] == trainer.cfg.SOLVER.BASE_LR][:1]
    result = []
    for _ in range(trainer.start_iter, trainer.max_iter):
        result.append(group["lr"])
        trainer.optimizer.step()
        trainer.scheduler.step()
    return result


def test_resume_takes_the_rates_and_the_schedule_of_the_configuration(stopped):
    assert rates(resume(stopped())) == pytest.approx([0.001, 0.0001])
    assert rates(resume(stopped("SOLVER.BASE_LR", 0.5))) == pytest.approx([0.5, 0.05])
    longer = ("SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "(4,)", "SOLVER.GAMMA", 0.5)
    assert rates(resume(stopped(*longer))) == pytest.approx([0.001, 0.001, 0.0005, 0.0005])
    decay = ("SOLVER.WEIGHT_DECAY", 0.2, "SOLVER.WEIGHT_DECAY_NORM", 0.2)
    trainer = resume(stopped(*decay))
    assert {x["weight_decay"] for x in trainer.optimizer.param_groups} == {0.2}
    assert all("exp_avg" in state for state in trainer.optimizer.state.values())


def test_resume_says_of_each_changed_key_whether_it_takes_effect(stopped, tmp_path):
    weights = str(tmp_path / "other.pth")
    main(stopped("SOLVER.BASE_LR", 0.5, "SOLVER.GAMMA", 0.2, "MODEL.WEIGHTS", weights))
    said = (tmp_path / "output" / "log.txt").read_text().split("Resuming from")[1]
    assert said.count("it takes effect") == 2
    assert "Resuming with SOLVER.BASE_LR 0.5, which was 0.001: it takes effect" in said
    assert f"MODEL.WEIGHTS {weights!r} is not read, since the weights are those of" in said
    assert "OUTPUT_DIR" not in said.split("Training\n")[0]


@pytest.mark.parametrize(
    "opts, said",
    [
        (("SOLVER.OPTIMIZER", "SGD"), "holds the state of SOLVER.OPTIMIZER ADAMW, with which SGD"),
        (("SOLVER.BIAS_LR_FACTOR", 2.0), "has other groups of parameters, as SOLVER.BACKBONE_MUL"),
    ],
)
def test_resume_refuses_another_optimizer_before_it_changes_anything(stopped, capsys, opts, said):
    assert run(stopped(*opts)) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_resume_of_a_run_that_is_done_says_so(stopped, tmp_path):
    (tmp_path / "output" / "last_checkpoint").write_text("model_final.pth")
    before = torch.load(tmp_path / "output" / "model_final.pth")["model"]
    main(stopped())
    log = (tmp_path / "output" / "log.txt").read_text()
    said = "All 4 iterations of SOLVER.MAX_ITER 4 are done: nothing is trained; `train_net.py --r"
    assert log.count(said) == 1
    after = torch.load(tmp_path / "output" / "model_final.pth")["model"]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
