"""The hooks of a training, in their order: Detectron2's, with this project's in their places."""

from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from .early_stopping import EarlyStopping
from .evaluation import best_metric
from .hooks import BestCheckpointer, FolderWatch, KeepNewest, PeriodicCheckpointer
from .resuming import precise_bn_from_here
from .training_pictures import TrainingPictures
from .tta_evaluation import tta_hooks


def arrange_hooks(trainer, defaults: list[HookBase | None]) -> list[HookBase | None]:
    """Behind the checkpointer what keeps the disk bounded; behind the evaluation the best, then
    early stopping; last the writers, which write what the others measured.

    Args:
        trainer: a `Trainer` that has its model; gets the hooks that it calls itself.
        defaults: DefaultTrainer's.
    """
    result: list[HookBase | None] = []
    for hook in defaults:
        if isinstance(hook, hooks.PreciseBN):
            result.append(precise_bn_from_here(hook, trainer, trainer.evaluated_model))
        elif isinstance(hook, hooks.PeriodicCheckpointer):
            result += _checkpointing(trainer)
        elif isinstance(hook, hooks.EvalHook):
            result += _evaluating(trainer)
        elif isinstance(hook, hooks.PeriodicWriter):
            result += [*_drawing(trainer), *trainer.trackers, hook]
        else:
            result.append(hook)
    return result


def _checkpointing(trainer) -> list[HookBase]:
    """Of the main process."""
    cfg = trainer.cfg
    period = cfg.SOLVER.CHECKPOINT_PERIOD
    keep = KeepNewest(cfg.OUTPUT_DIR, cfg.SOLVER.CHECKPOINT_KEEP, period)
    checkpoints = PeriodicCheckpointer(
        trainer.checkpointer, period, cfg.SOLVER.CHECKPOINT_MINUTES, keep
    )
    trainer.checkpoints = checkpoints
    trainer.folder_watch = FolderWatch(cfg.OUTPUT_DIR, checkpoints)
    return [trainer.folder_watch, checkpoints, keep]


def _evaluating(trainer) -> list[HookBase]:
    cfg = trainer.cfg
    period, patience = cfg.TEST.EVAL_PERIOD, cfg.TEST.EARLY_STOPPING_PATIENCE
    result: list[HookBase] = [hooks.EvalHook(period, trainer.evaluate)]
    if not cfg.DATASETS.TEST:
        return result
    best = None
    if comm.is_main_process():
        best = BestCheckpointer(
            period, trainer.evaluated_model, cfg.OUTPUT_DIR, best_metric(cfg), trainer.meta
        )
        result.append(best)
    if patience:
        result.append(EarlyStopping(patience, period, best))
    return result + tta_hooks(cfg)


def _drawing(trainer) -> list[HookBase]:
    """Of the main process, and of a model that does not draw by itself, as Detectron2's do."""
    cfg, model = trainer.cfg, trainer.evaluated_model
    if not cfg.VIS_PERIOD or hasattr(model, "visualize_training"):
        return []
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    trainer.pictures = TrainingPictures(cfg.VIS_PERIOD, model, cfg.INPUT.FORMAT, metadata)
    return [trainer.pictures]
