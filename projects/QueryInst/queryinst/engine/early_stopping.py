"""The end of a training whose best metric no longer improves (TEST.EARLY_STOPPING_PATIENCE)."""

import logging
from contextlib import suppress

from detectron2.engine import HookBase
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm

from .hooks import BestCheckpointer
from .stopping import stop

logger = logging.getLogger(__name__)


class TrainingOver(BaseException):
    """The training is done before its last iteration; not an error, so not an Exception."""


class EndsEarly(TrainerBase):
    """The loop of a training that TrainingOver ends as the last iteration would."""

    def train(self, start_iter: int, max_iter: int):
        with suppress(TrainingOver):
            super().train(start_iter, max_iter)


class EarlyStopping(HookBase):
    """Ends a training after so many evaluations without a better TEST.BEST_METRIC.

    The count follows from the iteration of the best value, which model_best.json holds, so that it
    survives a resume.
    """

    def __init__(self, patience: int, eval_period: int, best: BestCheckpointer | None):
        """
        Args:
            patience: TEST.EARLY_STOPPING_PATIENCE, >= 1.
            best: a hook before this one; None in processes other than the main one, which decides.
        """
        self._patience = patience
        self._period = eval_period
        self._best = best

    def after_step(self):
        num_done = self.trainer.iter + 1
        is_evaluated = num_done % self._period == 0 and num_done < self.trainer.max_iter
        if not is_evaluated or stop.left_evaluation_by:
            return
        if any(comm.all_gather(self._best is not None and self._is_over(self._best, num_done))):
            self.trainer.end_here()

    def _is_over(self, best: BestCheckpointer, num_done: int) -> bool:
        since = 0 if best.best_iter is None else best.best_iter + 1
        num_evaluations = num_done // self._period - since // self._period
        if num_evaluations < self._patience:
            return False
        known = "had no finite value"
        if best.best_iter is not None:
            known = f"was never better than {best.best_metric:.4g} of iteration {best.best_iter}"
        logger.info(
            f"Early stopping: {best.metric} {known} in {num_evaluations} evaluations "
            f"(TEST.EARLY_STOPPING_PATIENCE {self._patience}); the training is done after "
            f"{num_done} of {self.trainer.max_iter} iterations"
        )
        return True
