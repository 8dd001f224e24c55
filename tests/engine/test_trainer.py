import json

import pytest
import yaml
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, hooks
from detectron2.utils.events import EventStorage

from queryinst.checkpoint import read_meta
from queryinst.engine import Trainer, setup_cfg
from queryinst.engine.evaluation import best_metric
from queryinst.engine.hooks import BestCheckpointer, FolderWatch, KeepNewest, PeriodicCheckpointer
from queryinst.testing import tiny_cfg


def test_the_configuration_is_scaled_from_its_reference_world_size(make_cfg, tmp_path):
    """Written for two processes with two images each, run by one: Detectron2's rule."""
    cfg = make_cfg(
        *("SOLVER.REFERENCE_WORLD_SIZE", "2", "SOLVER.IMS_PER_BATCH", "4"),
        *("SOLVER.BASE_LR", "0.004", "SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "(8,)"),
        *("SOLVER.CHECKPOINT_PERIOD", "5", "TEST.EVAL_PERIOD", "5", "SOLVER.WARMUP_ITERS", "3"),
    )
    trainer = Trainer(cfg)
    scaled = trainer.cfg.SOLVER
    assert (scaled.IMS_PER_BATCH, scaled.BASE_LR, scaled.MAX_ITER) == (2, 0.002, 20)
    assert (scaled.STEPS, scaled.WARMUP_ITERS, scaled.CHECKPOINT_PERIOD) == ((16,), 6, 10)
    assert trainer.max_iter == 20 and trainer.cfg.TEST.EVAL_PERIOD == 10
    assert len(next(iter(trainer.data_loader))) == 2
    trainer.checkpointer.save("now")
    saved = yaml.safe_load(read_meta(str(tmp_path / "output" / "now.pth"))["config"])
    assert saved["SOLVER"]["IMS_PER_BATCH"] == 2 and saved["SOLVER"]["MAX_ITER"] == 20
    assert cfg.SOLVER.IMS_PER_BATCH == 4


def test_the_learning_rate_warms_up_and_drops(make_cfg):
    cfg = make_cfg(
        *("SOLVER.BASE_LR", "0.1", "SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0.5"),
        *("SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "(6,)", "SOLVER.GAMMA", "0.1"),
    )
    trainer = Trainer(cfg)
    full_rate = [group for group in trainer.optimizer.param_groups if group["initial_lr"] == 0.1]
    rates = []
    for _ in range(8):
        rates.append(full_rate[0]["lr"])
        trainer.optimizer.step()
        trainer.scheduler.step()
    linear = [0.1 * (0.5 + 0.5 * step / 4) for step in range(4)]
    assert rates == pytest.approx(linear + [0.1, 0.1, 0.01, 0.01])


def test_checkpoints_say_what_they_are(make_cfg, tmp_path):
    cfg = make_cfg()
    trainer = Trainer(cfg)
    trainer.checkpointer.save("now")
    meta = read_meta(str(tmp_path / "output" / "now.pth"))
    assert meta["thing_classes"] == list(MetadataCatalog.get("tiny_train").thing_classes)
    assert meta["dataset_id_map"] == {1: 0, 2: 1, 3: 2} and meta["kind"] == "train"
    path = tmp_path / "config.yaml"
    path.write_text(meta["config"])
    again = setup_cfg(str(path))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_what_training_uses_is_asked_of_the_class(make_cfg, monkeypatch):
    """Users override these; each must be the one that __init__ takes."""
    asked = []
    names = ("build_model", "build_optimizer", "build_train_loader", "build_lr_scheduler")
    for name in names:
        original = getattr(Trainer, name)

        def ask(cls, *args, name=name, original=original):
            asked.append(name)
            return original(*args)

        monkeypatch.setattr(Trainer, name, classmethod(ask))
    trainer = Trainer(make_cfg())
    assert sorted(asked) == sorted(names) and isinstance(trainer, DefaultTrainer)
    groups = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert groups == {1e-4, 1e-5}  # bottom_up learns at a tenth


def test_hooks_stand_in_an_order_that_works(make_cfg):
    trainer = Trainer(make_cfg("DATASETS.TEST", "('tiny_val',)", "SOLVER.CHECKPOINT_KEEP", "2"))
    kinds = [type(hook) for hook in trainer._hooks]
    order = [FolderWatch, PeriodicCheckpointer, KeepNewest, hooks.EvalHook, BestCheckpointer]
    order += [hooks.PeriodicWriter]
    assert [kind for kind in kinds if kind in order] == order


def test_after_a_failed_last_step_nothing_is_evaluated(make_cfg, tmp_path):
    trainer = Trainer(make_cfg("DATASETS.TEST", "('tiny_val',)", "SOLVER.MAX_ITER", "1"))
    trainer.iter = 0  # the last
    with EventStorage() as trainer.storage:
        trainer.after_train()
    assert not (tmp_path / "output" / "results.json").exists()


@pytest.mark.parametrize(
    "test_sets, masks, name",
    [
        (("a",), True, "segm/AP"),
        (("a",), False, "bbox/AP"),
        (("a", "b"), True, "a/segm/AP"),
        (("a", "b"), False, "a/bbox/AP"),
    ],
)
def test_the_best_model_goes_by_the_first_test_set_and_a_metric_that_is_there(
    test_sets, masks, name
):
    assert best_metric(tiny_cfg(DATASETS__TEST=test_sets, MODEL__MASK_ON=masks)) == name


def test_one_step_writes_the_losses_of_each_stage(make_cfg, tmp_path):
    trainer = Trainer(make_cfg("SOLVER.MAX_ITER", "1"))
    trainer.train()
    (line,) = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    line_metrics = json.loads(line)
    kinds = ("loss_cls", "loss_box_l1", "loss_box_giou", "loss_mask")
    losses = [line_metrics[f"{kind}_stage{stage}"] for kind in kinds for stage in range(2)]
    assert line_metrics["total_loss"] == pytest.approx(sum(losses)) and min(losses) > 0
    assert line_metrics["queryinst/num_matched"] >= 2
