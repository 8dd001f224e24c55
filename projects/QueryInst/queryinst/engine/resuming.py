"""What makes a resumed training the one that was not interrupted, beside weights and optimizer."""

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.utils import comm
from torch import nn

from ..data.seeds import STEP, seed_generators
from ..data.train_loader import TrainLoader

logger = logging.getLogger(__name__)


class RunSeed:
    """The seed of a run, which its checkpoints hold: SEED, or one drawn if that is negative."""

    def __init__(self, seed: int):
        """
        Args:
            seed: cfg.SEED; all processes call this if it is negative.
        """
        self._configured = seed
        self.value = int(seed if seed >= 0 else comm.shared_random_seed())
        if seed < 0:
            logger.info(f"SEED {seed}: drew {self.value} for images, augmentation and dropout")

    def in_cfg(self, cfg: CfgNode) -> CfgNode:
        """`cfg` with this seed as SEED; frozen if it is."""
        result = cfg.clone()
        result.defrost()
        result.SEED = self.value
        if cfg.is_frozen():
            result.freeze()
        return result

    def seed_step(self, iteration: int) -> None:
        """Seed what the model draws in a step, dropout for instance; differs between processes."""
        seed_generators(self.value, STEP, iteration, comm.get_rank())

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the seed that the run began with, whatever SEED says.

        Raises:
            ValueError: it is not an integer >= 0.
        """
        seed = state.get("seed") if isinstance(state, dict) else None
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed {seed!r} must be an integer >= 0")
        if seed != self.value:
            say = logger.info if self._configured < 0 else logger.warning
            say(f"Resuming with SEED {seed}, which this run began with, not {self.value}")
        self.value = seed


def restore_order(loader: Iterable, iteration: int) -> None:
    """Say if a loader was not restored from the checkpoint, and start ours where it should be."""
    if isinstance(loader, TrainLoader) and not loader.was_restored:
        loader.start_at(iteration)
        logger.warning(
            "The checkpoint holds no place in the order of images, as older versions wrote it: "
            f"resuming where iteration {iteration} of batches like the present ones starts"
        )
    elif not hasattr(loader, "load_state_dict"):
        logger.warning(
            f"The order of images of a loader of your own ({type(loader).__name__}) is not "
            "restored: it starts from its beginning"
        )


class PreciseBN(hooks.PreciseBN):
    """Detectron2's, over the images that the training takes next.

    They are a function of the iteration, however often the training was interrupted.
    """

    def update_stats(self):
        self._data_loader.load_state_dict(self.trainer.data_loader.state_dict())
        self._data_iter = None
        super().update_stats()


def precise_bn_from_here(
    hook: hooks.PreciseBN, trainer: DefaultTrainer, model: nn.Module
) -> HookBase:
    """Our PreciseBN of a model for Detectron2's, if the loaders can do it."""
    if not isinstance(trainer.data_loader, TrainLoader):
        hook._model = model
        return hook
    num_iter = trainer.cfg.TEST.PRECISE_BN.NUM_ITER
    return PreciseBN(hook._period, model, hook._data_loader, num_iter)


class MissedEvaluation(HookBase):
    """Evaluates before a resumed training if its checkpoint is of an iteration that is evaluated.

    The checkpoint is written first, so that the evaluation may have been cut off, and with it the
    best model.
    """

    def __init__(self, eval_period: int, evaluating: list[HookBase]):
        """
        Args:
            evaluating: hooks to run, in their order; they stand before this one.
        """
        self._period = eval_period
        self._evaluating = evaluating

    def before_train(self):
        trainer, start = self.trainer, self.trainer.start_iter
        if self._period <= 0 or start % self._period or not 0 < start < trainer.max_iter:
            return
        logger.info(f"Evaluating iteration {start - 1}, which may have been cut off")
        trainer.iter = trainer.storage.iter = start - 1
        for hook in self._evaluating:
            hook.after_step()
        trainer.iter = trainer.storage.iter = start
        trainer.leave_if_over()
