"""Evaluation with test-time augmentation, after the plain one."""

import logging
import os
from collections.abc import Callable, Mapping

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .evaluation import by_dataset, write_results
from .test_time_augmentation import QueryInstWithTTA

logger = logging.getLogger(__name__)


def evaluate_with_tta(
    test: Callable[[CfgNode, nn.Module], Mapping], cfg: CfgNode, model: nn.Module
):
    """Evaluate with TEST.AUG.

    Args:
        test: as `Trainer.test`. Its files go to OUTPUT_DIR/TTA, and its images come in the size of
            their files: the views are resized from them.
        model: a QueryInst or one of Detectron2's R-CNNs.

    Returns:
        As `test`, but with tasks such as "segm_TTA", as in Detectron2's train_net.py.
    """
    logger.info("Evaluating with test-time augmentation")
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    is_rcnn = isinstance(plain, GeneralizedRCNN)
    augmented = (GeneralizedRCNNWithTTA if is_rcnn else QueryInstWithTTA)(cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "TTA")
    cfg.freeze()
    results = test(cfg, augmented)
    if len(cfg.DATASETS.TEST) == 1:
        return _with_suffix(results)
    return {name: _with_suffix(tasks) for name, tasks in results.items()}


def add_results(cfg: CfgNode, plain: Mapping, augmented: Mapping) -> Mapping:
    """Put the results of `evaluate_with_tta` beside the plain ones; OUTPUT_DIR/results.json too."""
    if not augmented:  # not the main process, or a signal ended it
        return plain
    if len(cfg.DATASETS.TEST) == 1:
        results = {**plain, **augmented}
    else:
        results = {name: {**plain.get(name, {}), **augmented[name]} for name in augmented}
    if comm.is_main_process():
        write_results(cfg.OUTPUT_DIR, by_dataset(cfg, results))
    return results


class EvaluationWithTTA(hooks.EvalHook):
    """Evaluates so once, at the end of a training, behind the plain evaluation."""

    def __init__(self):
        super().__init__(0, self._evaluate)

    def _evaluate(self) -> Mapping:
        trainer = self.trainer
        results = trainer.test_with_TTA(trainer.cfg, trainer.evaluated_model)
        trainer._last_eval_results = add_results(trainer.cfg, trainer._last_eval_results, results)
        return results


def tta_hooks(cfg: CfgNode) -> list[hooks.HookBase]:
    """What a training with TEST.AUG.ENABLED has in all its processes."""
    return [EvaluationWithTTA()] if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST else []


def _with_suffix(tasks: Mapping) -> dict:
    return {f"{task}_TTA": metrics for task, metrics in tasks.items()}
