"""Metrics for Weights & Biases and MLflow (WRITERS), where installed and asked for."""

import importlib
import logging
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage

from ..config import config_of_checkpoint
from ..json_files import read_json
from ..yaml_files import load_yaml
from .evaluation import write_json
from .resumed_config import flat_keys

logger = logging.getLogger(__name__)

_IDS = "writers.json"  # in OUTPUT_DIR: the run's id by the writer's name
_NOT_FOR_MLFLOW = re.compile(r"[^\w\-. :/]")  # in names of metrics
_WINDOW = 20  # iterations, as Detectron2's writers smooth


def check_writers(names: Iterable[str]) -> None:
    """
    Raises:
        ImportError: the package of a writer is not installed, or fails to be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"WRITERS names {name!r}, whose package cannot be imported ({error}); "
                f"pip install {name}, or leave it out of WRITERS"
            ) from None


class Tracker(EventWriter, HookBase):
    """A writer, and a hook that starts it: a resumed training goes on with the run of before.

    If it fails, by the network for instance, one warning says so, and the training goes on.
    """

    name = ""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: goes with the run, whose name is that of OUTPUT_DIR.
        """
        self._cfg = cfg
        self._ids = os.path.join(cfg.OUTPUT_DIR, _IDS)
        self._last = -1
        self._is_off = True  # not started, or failed

    def before_train(self):
        """Start the run, or go on with that of before."""
        self._is_off = False
        self._attempt(self._start)

    def write(self):
        """Send what is new since the last time, by iteration."""
        values: dict[int, dict[str, float]] = defaultdict(dict)
        smoothed = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for key, (value, iteration) in smoothed.items():
            if iteration > self._last and math.isfinite(value):
                values[iteration][key] = float(value)
        for iteration in sorted(values):
            self._attempt(lambda: self.send(values[iteration], iteration))
            self._last = iteration

    def close(self):
        """End the run. One that a signal stopped is not failed: it can go on."""
        self._attempt(lambda: self.end(isinstance(sys.exc_info()[1], Exception)))
        self._is_off = True

    def start(self, known_id: str | None, run_name: str) -> str:
        """Begin a run, or go on with the one of this id; returns the id."""
        raise NotImplementedError

    def send(self, values: dict[str, float], iteration: int) -> None:
        raise NotImplementedError

    def end(self, has_failed: bool) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        ids = read_json(self._ids, dict) if os.path.isfile(self._ids) else {}
        known = ids.get(self.name) if self.trainer.start_iter > 0 else None
        run_name = os.path.basename(os.path.abspath(self._cfg.OUTPUT_DIR))
        ids[self.name] = self.start(known if isinstance(known, str) else None, run_name)
        write_json(self._ids, ids)

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._is_off:
            return
        try:
            action()
        except Exception as error:  # of a library that may raise anything
            self._is_off = True
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            logger.warning(f"{self.name} gets nothing more from this training: {line}")


class WandbTracker(Tracker):
    """Project and account are as wandb's environment variables say, such as WANDB_PROJECT."""

    name = "wandb"
    _run: Any = None

    def start(self, known_id: str | None, run_name: str) -> str:
        self._run = importlib.import_module("wandb").init(
            id=known_id,
            resume="allow",
            name=run_name,
            dir=self._cfg.OUTPUT_DIR,
            config=load_yaml(self._cfg.dump(), "the configuration"),
        )
        return str(self._run.id)

    def send(self, values: dict[str, float], iteration: int) -> None:
        self._run.log(values, step=iteration)

    def end(self, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class MlflowTracker(Tracker):
    """Server and experiment are as MLflow's environment variables say: MLFLOW_TRACKING_URI, ..."""

    name = "mlflow"
    _mlflow: Any = None

    def start(self, known_id: str | None, run_name: str) -> str:
        self._mlflow = importlib.import_module("mlflow")
        named = {"run_id": known_id} if known_id else {"run_name": run_name}
        run = self._mlflow.start_run(**named)
        if not known_id:  # a run's parameters cannot change
            self._mlflow.log_params(dict(flat_keys(config_of_checkpoint(self._cfg.dump()))))
        return str(run.info.run_id)

    def send(self, values: dict[str, float], iteration: int) -> None:
        metrics = {_NOT_FOR_MLFLOW.sub("_", key): value for key, value in values.items()}
        self._mlflow.log_metrics(metrics, step=iteration)

    def end(self, has_failed: bool) -> None:
        self._mlflow.end_run("FAILED" if has_failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {x.name: x for x in (WandbTracker, MlflowTracker)}
