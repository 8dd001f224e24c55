"""Hooks of a training: print progress, delete old checkpoints, keep the best one."""

import os
import re

import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage

from ..checkpoint import QueryInstCheckpointer
from ..json_files import read_json
from .evaluation import write_json

_STAGE = re.compile(r"_stage\d+$")
_PERIODIC = re.compile(r"model_\d{7}\.pth")


class StageSumPrinter(CommonMetricPrinter):
    """Progress in one line: each loss summed over the stages, time left, learning rate.

    The losses of each stage stay in the event storage, and so in metrics.json.
    """

    def write(self):
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # after the last step
            return
        parts = [f"iter: {storage.iter + 1}/{self._max_iter}"]
        if eta := self._get_eta(storage):
            parts.append(f"eta: {eta}")
        parts += [f"{name}: {loss:.4g}" for name, loss in self._summed_losses(storage).items()]
        known = storage.histories()
        parts += [f"{k}: {known[k].avg(20):.3f} s" for k in ("time", "data_time") if k in known]
        if "lr" in known:
            parts.append(f"lr: {known['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))

    def _summed_losses(self, storage: EventStorage) -> dict[str, float]:
        """The total, then each kind of loss, as medians over the last steps."""
        losses = {"total_loss": 0.0}
        for name, history in storage.histories().items():
            if "loss" in name:
                median = history.median(storage.count_samples(name, self._window_size))
                kind = _STAGE.sub("", name)
                losses[kind] = losses.get(kind, 0.0) + median
        return losses


class KeepNewest(HookBase):
    """Delete all but the newest periodic checkpoints.

    It looks at the files themselves, so that those from before a resume count too.
    """

    def __init__(self, output_dir: str, keep: int, period: int):
        """
        Args:
            keep: SOLVER.CHECKPOINT_KEEP; 0 keeps all.
            period: SOLVER.CHECKPOINT_PERIOD, in iterations.
        """
        self._output_dir = output_dir
        self._keep = keep
        self._period = period

    def after_step(self):
        if self._keep and (self.trainer.iter + 1) % self._period == 0:
            self._delete_old()

    def _delete_old(self) -> None:
        if not os.path.isdir(self._output_dir):
            return  # a remote folder
        names = [name for name in os.listdir(self._output_dir) if _PERIODIC.fullmatch(name)]
        paths = [os.path.join(self._output_dir, name) for name in names]
        paths.sort(key=lambda path: (os.path.getmtime(path), path))
        for path in paths[: -self._keep]:
            os.remove(path)


class _UntaggedCheckpointer(QueryInstCheckpointer):
    """Writes checkpoints that --resume ignores."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, but its best value survives a resume, and model_best.pth has no optimizer.

    OUTPUT_DIR/model_best.json holds the value. A checkpoint cannot, because it is written before
    the evaluation of its iteration.
    """

    def __init__(self, eval_period: int, model, output_dir: str, val_metric: str, meta: dict):
        checkpointer = _UntaggedCheckpointer(model, output_dir, meta=meta)
        super().__init__(eval_period, checkpointer, val_metric)
        self._record = os.path.join(output_dir, "model_best.json")

    def before_train(self):
        """Read the best value so far if the training resumes."""
        if self.trainer.start_iter == 0 or not os.path.exists(self._record):
            return
        record = read_json(self._record, dict)
        if record.get("metric") != self._val_metric:
            return
        best = record.get("value"), record.get("iteration")
        if not all(isinstance(number, int | float) and abs(number) < 1e18 for number in best):
            raise ValueError(f"{self._record} has no finite value and iteration; remove it")
        self.best_metric, self.best_iter = best

    def _best_checking(self):
        before = (self.best_metric, self.best_iter)
        super()._best_checking()
        if (self.best_metric, self.best_iter) != before:
            record = {
                "metric": self._val_metric,
                "value": self.best_metric,
                "iteration": int(self.best_iter),
            }
            write_json(self._record, record)
