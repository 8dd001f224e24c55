"""Hooks of a training: print progress, write and delete checkpoints, watch the folder."""

import os
import re
import time

import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage
from detectron2.utils.file_io import PathManager

from ..checkpoint import QueryInstCheckpointer
from ..json_files import read_json
from .evaluation import write_json
from .stopping import stop

_STAGE = re.compile(r"_stage\d+$")
_PERIODIC = re.compile(r"model_\d{7}\.pth")


class StageSumPrinter(CommonMetricPrinter):
    """Progress in one line: each loss summed over the stages, time left, learning rate.

    The losses of each stage stay in the event storage, and so in metrics.json.
    """

    _last = -1  # the iteration of the newest losses that were printed

    def write(self):
        storage = get_event_storage()
        newest = storage.latest().get("total_loss", (0.0, -1))[1]
        if newest == self._last:  # after the last step
            return
        self._last = newest
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
            if "loss" in name and not name.startswith("val_"):
                median = history.median(storage.count_samples(name, self._window_size))
                kind = _STAGE.sub("", name)
                losses[kind] = losses.get(kind, 0.0) + median
        return losses


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, which writes after so many minutes too, and when it is asked to."""

    def __init__(
        self, checkpointer: QueryInstCheckpointer, period: int, minutes: float, keep: "KeepNewest"
    ):
        """
        Args:
            period: SOLVER.CHECKPOINT_PERIOD, in iterations.
            minutes: SOLVER.CHECKPOINT_MINUTES since the last checkpoint; 0 for never.
            keep: deletes old checkpoints; called here after those between two periods.
        """
        super().__init__(checkpointer, period)
        self._seconds = 60 * minutes
        self._keep = keep
        self._saved_at = time.monotonic()
        self._last_iteration: int | None = None

    def before_train(self):
        """Start the clock; write model_final if the run ended before that, behind the last step."""
        super().before_train()
        self._saved_at = time.monotonic()
        if self.trainer.start_iter == self.trainer.max_iter and not self._has_final():
            self.save_now()

    def after_step(self):
        """Write a checkpoint if it is time."""
        iteration = self.trainer.iter
        is_last = iteration + 1 >= self.trainer.max_iter
        if is_last or (iteration + 1) % self.period == 0:
            super().after_step()
            self._note(iteration)
        elif self._seconds and time.monotonic() - self._saved_at >= self._seconds:
            self.save_now()

    def save_now(self) -> None:
        """Write the checkpoint of the last finished iteration, under its usual name."""
        iteration = self.trainer.iter = min(self.trainer.iter, self.trainer.max_iter - 1)
        is_last = iteration + 1 >= self.trainer.max_iter
        name = "final" if is_last else f"{iteration:07d}"
        self.checkpointer.save(f"{self.file_prefix}_{name}", iteration=iteration)
        self._note(iteration)
        self._keep.delete_old()

    def save_unless_saved(self) -> None:
        """The same, unless this iteration has one."""
        if self._last_iteration != self.trainer.iter:
            self.save_now()

    def _has_final(self) -> bool:
        name = f"{self.file_prefix}_final.pth"
        return PathManager.exists(os.path.join(self.checkpointer.save_dir, name))

    def _note(self, iteration: int) -> None:
        self._last_iteration, self._saved_at = iteration, time.monotonic()


class FolderWatch(HookBase):
    """Notice that OUTPUT_DIR was removed or renamed, as the system does not."""

    def __init__(self, output_dir: str, checkpoints: PeriodicCheckpointer):
        self._output_dir = output_dir
        self._checkpoints = checkpoints
        self._folder: int | None = None

    def before_train(self):
        """Remember the folder. As long as it is open, no other folder looks the same."""
        if os.path.isdir(self._output_dir):
            self._folder = os.open(self._output_dir, os.O_RDONLY)

    def after_step(self):
        """
        Raises:
            FileNotFoundError: the folder is gone; a checkpoint is in a new one.
        """
        if self._folder is None or self._is_there(self._folder):
            return
        self._checkpoints.save_now()
        raise FileNotFoundError(
            f"OUTPUT_DIR {self._output_dir!r} was removed or renamed during the run, with log and "
            f"metrics; a checkpoint after {self.trainer.iter + 1} iterations is in a new folder of "
            "that name, and --resume goes on"
        )

    def close(self) -> None:
        """Let go of the folder."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _is_there(self, folder: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._output_dir), os.fstat(folder))
        except OSError:
            return False


class KeepNewest(HookBase):
    """Delete all but the newest periodic checkpoints, and never the one to resume from.

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
        """Delete if a checkpoint was due in this step."""
        if (self.trainer.iter + 1) % self._period == 0:
            self.delete_old()

    def delete_old(self) -> None:
        """Delete. The newest checkpoint is whole: it has its name only since then."""
        if not self._keep or not os.path.isdir(self._output_dir):
            return  # the latter for a remote folder
        names = [name for name in os.listdir(self._output_dir) if _PERIODIC.fullmatch(name)]
        paths = [os.path.join(self._output_dir, name) for name in names]
        paths.sort(key=lambda path: (os.path.getmtime(path), path))
        tag = os.path.join(self._output_dir, "last_checkpoint")
        last = ""
        if os.path.isfile(tag):
            with open(tag, errors="replace") as file:
                last = file.read().strip()
        for path in paths[: -self._keep]:
            if os.path.basename(path) != last:  # a clock that was set back makes it an old one
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

    @property
    def metric(self) -> str:
        """The name under which EvalHook stores it."""
        return self._val_metric

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
        if stop.left_evaluation_by:
            return
        before = (self.best_metric, self.best_iter)
        super()._best_checking()
        if (self.best_metric, self.best_iter) != before:
            record = {
                "metric": self._val_metric,
                "value": self.best_metric,
                "iteration": int(self.best_iter),
            }
            write_json(self._record, record)
