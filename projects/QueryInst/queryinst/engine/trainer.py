"""Trainer: Detectron2's DefaultTrainer with this project's optimizer, checkpoints and messages."""

import logging
import os
import weakref
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager

from ..checkpoint import QueryInstCheckpointer, build_meta
from ..data.mapper import build_mapper
from ..solver import build_optimizer
from .amp import inference_autocast, training_precision
from .batches import LastBatch
from .evaluation import build_evaluator, by_dataset, write_results
from .hooks import BestCheckpointer, KeepNewest, StageSumPrinter
from .logs import log_at_least_to_terminal
from .nonfinite import AgreeingMatcher, NonFiniteSteps, describe_step
from .steps import StepTrainer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains as DefaultTrainer does; its attributes, hooks and class methods are that one's."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: as `setup_cfg` returns it; scaled by SOLVER.REFERENCE_WORLD_SIZE.
        """
        # Not DefaultTrainer's: it hard-codes the checkpointer and DDP's device ids.
        TrainerBase.__init__(self)
        log_at_least_to_terminal()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._last_batch = LastBatch(model)
        limit = cfg.SOLVER.SKIP_NONFINITE
        self._nonfinite = NonFiniteSteps(model, limit)
        if limit and comm.get_world_size() > 1 and hasattr(model, "matcher"):
            model.matcher = AgreeingMatcher(model.matcher)
        device_ids = {} if cfg.MODEL.DEVICE.startswith("cuda") else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        logger.info(f"Training in {training_precision(cfg)}")
        self._trainer = StepTrainer(model, loader, optimizer, cfg)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._meta = build_meta(cfg, cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else "")
        self.checkpointer = QueryInstCheckpointer(
            model, cfg.OUTPUT_DIR, meta=self._meta, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode):
        from detectron2.modeling import build_model

        model = build_model(cfg)
        num = sum(parameter.numel() for parameter in model.parameters())
        logger.info(f"{cfg.MODEL.META_ARCHITECTURE} with {num / 1e6:.1f} M parameters")
        logger.debug(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_detection_train_loader(cfg, mapper=build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        mapper = build_mapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str):
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None):
        """As DefaultTrainer's; the main process writes OUTPUT_DIR/results.json as well."""
        last_batch = LastBatch(model)
        try:
            with inference_autocast(cfg):
                results = super().test(cfg, model, evaluators)
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(
                f"CUDA out of memory in evaluation, with {last_batch.describe()}; lower "
                "INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST or TEST.DETECTIONS_PER_IMAGE"
            ) from error
        finally:
            last_batch.remove()
        if comm.is_main_process() and cfg.DATASETS.TEST:
            write_results(cfg.OUTPUT_DIR, by_dataset(cfg, results))
        return results

    def build_hooks(self):
        """DefaultTrainer's; behind the checkpointer what keeps the disk bounded, then the best."""
        cfg = self.cfg
        default_hooks = super().build_hooks()
        if not comm.is_main_process():
            return default_hooks
        result = []
        for hook in default_hooks:
            result.append(hook)
            if isinstance(hook, hooks.PeriodicCheckpointer):
                keep, period = cfg.SOLVER.CHECKPOINT_KEEP, cfg.SOLVER.CHECKPOINT_PERIOD
                result.append(KeepNewest(cfg.OUTPUT_DIR, keep, period))
            if isinstance(hook, hooks.EvalHook) and cfg.DATASETS.TEST:
                period, metric = cfg.TEST.EVAL_PERIOD, _best_metric(cfg)
                model = self.model
                result.append(BestCheckpointer(period, model, cfg.OUTPUT_DIR, metric, self._meta))
        return result

    def build_writers(self):
        """Progress on the terminal, metrics.json and TensorBoard."""
        folder = self.cfg.OUTPUT_DIR
        PathManager.mkdirs(folder)
        return [
            StageSumPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def run_step(self):
        """One iteration.

        Raises:
            FloatingPointError: a loss, gradient or matching cost is not finite, and
                SOLVER.SKIP_NONFINITE steps in a row have been left out; with iteration and files.
            RuntimeError: CUDA out of memory; with image sizes, instances and the keys to lower.
        """
        self._nonfinite.before_step()
        try:
            super().run_step()
            self._nonfinite.after_step()
        except FloatingPointError as error:
            line = f"iteration {self.iter}: {describe_step(error, self._last_batch)}"
            left_out = self._nonfinite.leave_out()
            if not left_out:
                raise FloatingPointError(f"{line}; {self._advice()}") from error
            if comm.is_main_process():
                logger.warning(f"{line}; {left_out} (SOLVER.SKIP_NONFINITE)")
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(
                f"CUDA out of memory in iteration {self.iter}, with {self._last_batch.describe()}; "
                "lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN or "
                "MODEL.QUERYINST.NUM_QUERIES"
            ) from error
        self._last_batch.forget()

    def _advice(self) -> str:
        limit, tag = self.cfg.SOLVER.SKIP_NONFINITE, Path(self.cfg.OUTPUT_DIR, "last_checkpoint")
        too_many = f"SOLVER.SKIP_NONFINITE {limit} steps in a row were left out before; "
        name = tag.read_text(errors="replace") if tag.is_file() else ""
        last = f"the last checkpoint is as it was, {name}" if name else "there is no checkpoint yet"
        return (
            f"{too_many if limit else ''}a lower SOLVER.BASE_LR or longer SOLVER.WARMUP_ITERS may "
            f"help, and {last}"
        )

    def after_train(self):
        """DefaultTrainer's; after a failed or interrupted step nothing is evaluated or kept."""
        if self.iter < self.max_iter:
            spoilt = (hooks.EvalHook, BestCheckpointer)
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, spoilt)]
        super().after_train()


def _best_metric(cfg: CfgNode) -> str:
    """The name under which EvalHook stores TEST.BEST_METRIC, of the first test set.

    A box detector has no "segm": its "bbox" counts instead.
    """
    metric = cfg.TEST.BEST_METRIC
    if not cfg.MODEL.MASK_ON:
        metric = metric.replace("segm/", "bbox/")
    return metric if len(cfg.DATASETS.TEST) == 1 else f"{cfg.DATASETS.TEST[0]}/{metric}"
