"""Trainer: Detectron2's DefaultTrainer with this project's optimizer, checkpoints and messages."""

import logging
import sys
import weakref
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm

from ..checkpoint import build_meta
from ..data.mapper import build_mapper
from ..data.train_loader import build_train_loader
from ..solver import build_optimizer
from .amp import inference_autocast, training_precision
from .batches import MEMORY_OF_TEST, MEMORY_OF_TRAINING, LastBatch, saying_what_to_lower
from .class_order import by_class_name, warn_of_other_classes
from .early_stopping import EarlyStopping, EndsEarly, TrainingOver
from .ema import build_average
from .evaluation import build_evaluator, by_dataset, write_results
from .finite_scores import NotNumberWatch, warn_of_not_numbers
from .hooks import BestCheckpointer, FolderWatch, PeriodicCheckpointer
from .logs import log_at_least_to_terminal
from .nonfinite import NonFiniteSteps, advice, describe_step
from .own_hooks import arrange_hooks
from .resumed_config import keeping_rates
from .resuming import MissedEvaluation, RunSeed, restore_order
from .steps import StepTrainer
from .stopping import EvaluationStopped, StoppableLoader, Stopped, leave, stop
from .trackers import TRACKERS, Tracker
from .training_checkpoints import TrainingCheckpointer
from .training_pictures import TrainingPictures
from .tta_evaluation import evaluate_with_tta
from .validation_loss import validation_loss
from .writers import build_writers
from .writing import naming, quiet_tensorboard_thread

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer, EndsEarly):
    """Trains as DefaultTrainer does; its attributes, hooks and class methods are that one's.

    Attributes:
        evaluated_model: not wrapped for distributed training if it is the average of SOLVER.EMA,
            else `model`; what evaluation and files get.
        meta: of its checkpoints.
        checkpoints, folder_watch, pictures, trackers: hooks of the main process, as far as wanted.
    """

    checkpoints: PeriodicCheckpointer | None = None
    folder_watch: FolderWatch | None = None
    pictures: TrainingPictures | None = None
    trackers: Sequence[Tracker] = ()

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
        self._average = build_average(cfg, model, optimizer)
        self._seed = RunSeed(cfg.SEED)
        loader = self.build_train_loader(self._seed.in_cfg(cfg))
        self._last_batch = LastBatch(model)
        self._nonfinite = NonFiniteSteps(model, cfg.SOLVER.SKIP_NONFINITE)
        device_ids = {} if cfg.MODEL.DEVICE.startswith("cuda") else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        logger.debug(f"Training in {training_precision(cfg)}")
        self._trainer = StepTrainer(model, loader, optimizer, cfg)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.evaluated_model = self._average.model if self._average else model
        self.meta = build_meta(cfg, cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else "")
        self.checkpointer = TrainingCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            average=self._average,
            meta=self.meta,
            trainer=weakref.proxy(self),
            rng=self._seed,
        )
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
            self.checkpointer.add_checkpointable("sampler", loader)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._is_over, self._evaluated = False, -1
        self.register_hooks(self.build_hooks())
        if cfg.DATASETS.TEST:
            kinds = (hooks.EvalHook, BestCheckpointer, EarlyStopping)
            evaluating = [hook for hook in self._hooks if isinstance(hook, kinds)]
            self.register_hooks([MissedEvaluation(cfg.TEST.EVAL_PERIOD, evaluating)])

    @classmethod
    def build_model(cls, cfg: CfgNode):
        from detectron2.modeling import build_model

        model = build_model(cfg)
        num = sum(parameter.numel() for parameter in model.parameters())
        logger.debug(f"{cfg.MODEL.META_ARCHITECTURE} with {num / 1e6:.1f} M parameters")
        logger.debug(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """A loader with `state_dict` and `load_state_dict` goes on where it was on resume."""
        return build_train_loader(cfg, build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        mapper = build_mapper(cfg, is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return StoppableLoader(loader) if stop.is_active else loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str):
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None):
        """As DefaultTrainer's; the main process writes OUTPUT_DIR/results.json as well.

        Predictions get the data set's class numbers by the names that the model's checkpoint has
        (`ByClassName`). Without results, and nothing is written, if a signal ended it within a
        training.
        """
        last_batch = LastBatch(model)
        try:
            with (
                saying_what_to_lower("evaluation", last_batch, MEMORY_OF_TEST),
                inference_autocast(cfg),
                naming(f"{cfg.OUTPUT_DIR}/inference/**"),
                NotNumberWatch(model) as watch,
            ):
                evaluators = by_class_name(cfg, model, evaluators, cls.build_evaluator)
                results = super().test(cfg, model, evaluators)
                warn_of_not_numbers(watch)
        except EvaluationStopped:
            return {}
        finally:
            last_batch.remove()
        if comm.is_main_process() and cfg.DATASETS.TEST:
            write_results(cfg.OUTPUT_DIR, by_dataset(cfg, results))
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model):
        """As `evaluate_with_tta`; the name is that of Detectron2's train_net.py."""
        return evaluate_with_tta(cls.test, cfg, model)

    def evaluate(self):
        """Evaluate within the training: results as `test`'s, and the validation loss if wanted.

        Nothing a second time for the same weights, which early stopping makes the last.
        """
        num_done = min(self.iter + 1, self.max_iter)
        if num_done == self._evaluated:
            return {}
        self._evaluated = num_done
        if self._average:
            self._average.agree()
        self._last_eval_results = self.test(self.cfg, self.evaluated_model)
        if self.cfg.TEST.VALIDATION_LOSS and not stop.left_evaluation_by:
            model = getattr(self.evaluated_model, "module", self.evaluated_model)
            losses = validation_loss(self.cfg, model)
            self.storage.put_scalars(**losses, smoothing_hint=False)
        return self._last_eval_results

    def build_hooks(self):
        """DefaultTrainer's, and this project's among them."""
        return arrange_hooks(self, super().build_hooks())

    def build_writers(self):
        """Progress on the terminal, metrics.json, TensorBoard, and those of WRITERS."""
        self.trackers = [TRACKERS[name](self.cfg) for name in self.cfg.WRITERS]
        return [*build_writers(self.cfg.OUTPUT_DIR, self.max_iter), *self.trackers]

    def resume_or_load(self, resume=True):
        """As DefaultTrainer's; goes on in the order of images."""
        super().resume_or_load(resume=resume)
        model, names = self.checkpointer.model, tuple(self.meta["thing_classes"])
        warn_of_other_classes(getattr(model, "thing_classes", ()), names)
        # From here on the model learns the data set's classes, whatever it started from.
        model.thing_classes = self.evaluated_model.thing_classes = names
        if self.start_iter > 0:
            restore_order(self.data_loader, self.start_iter)
        if self.start_iter >= self.max_iter:
            logger.info(
                f"All {self.start_iter} iterations of SOLVER.MAX_ITER {self.max_iter} are done: "
                "nothing is trained; `train_net.py --resume` with a higher SOLVER.MAX_ITER goes on"
            )

    def train(self):
        """Run training, from `start_iter` on.

        Raises:
            Stopped: by a signal, within `queryinst.engine.run`; a checkpoint is written.
        """
        try:
            with stop.deferred(), quiet_tensorboard_thread():
                results = super().train()
                if stop.left_evaluation_by:  # the last one
                    leave(stop.left_evaluation_by, self.max_iter, self.max_iter)
                return results
        except Stopped:
            comm.synchronize()  # no process may end before the checkpoint and the metrics are whole
            raise

    def after_step(self):
        """DefaultTrainer's; then, after a signal to any process, the end of the training in all.

        Raises:
            Stopped: not after the last step, which leaves only the evaluation to stop.
        """
        super().after_step()
        self.leave_if_over()
        if self.iter + 1 < self.max_iter and (number := stop.agreed()):
            if self.checkpoints:
                self.checkpoints.save_unless_saved()
            leave(number, self.iter + 1, self.max_iter)

    def end_here(self) -> None:
        """Let the running iteration be the last, with what belongs to that."""
        self.max_iter, self._is_over = self.iter + 1, True
        if self.checkpoints:
            self.checkpoints.save_now()

    def leave_if_over(self) -> None:
        """
        Raises:
            TrainingOver: after `end_here`.
        """
        if self._is_over:
            self.iter = self.max_iter
            raise TrainingOver

    def run_step(self):
        """One iteration, whose random numbers depend on the run's seed and the iteration alone.

        Raises:
            FloatingPointError: a loss, gradient or matching cost is not finite, and
                SOLVER.SKIP_NONFINITE steps in a row have been left out; with iteration and files.
            RuntimeError: CUDA out of memory; with image sizes, instances and the keys to lower.
        """
        self._nonfinite.before_step()
        self._trainer._data_loader_iter  # which may draw when it starts
        self._seed.seed_step(self.iter)
        where = f"iteration {self.iter}"
        try:
            with saying_what_to_lower(where, self._last_batch, MEMORY_OF_TRAINING):
                super().run_step()
            self._nonfinite.after_step()
        except FloatingPointError as error:
            line = f"{where}: {describe_step(error, self._last_batch)}"
            left_out = self._nonfinite.leave_out()
            if not left_out:
                what = advice(self.cfg.SOLVER.SKIP_NONFINITE, self.cfg.OUTPUT_DIR)
                raise FloatingPointError(f"{line}; {what}") from error
            if comm.is_main_process():
                logger.warning(f"{line}; {left_out} (SOLVER.SKIP_NONFINITE)")
        if self.pictures:
            self.pictures.take(self._last_batch)
        self._last_batch.forget()

    def load_state_dict(self, state_dict):
        """DefaultTrainer's; rates and schedule stay those of the configuration."""
        with keeping_rates(self.optimizer, self.scheduler):
            super().load_state_dict(state_dict)

    def after_train(self):
        """DefaultTrainer's; after a failed or interrupted step nothing is evaluated or kept."""
        is_complete = self.iter >= self.max_iter
        if not is_complete:
            spoilt = (hooks.EvalHook, BestCheckpointer)
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, spoilt)]
        failure = sys.exc_info()[1]
        try:
            super().after_train()
        except OSError:
            if not isinstance(failure, Exception):
                raise  # else the first error is the one to report
        if self.folder_watch:
            if is_complete:
                self.folder_watch.after_step()
            self.folder_watch.close()
