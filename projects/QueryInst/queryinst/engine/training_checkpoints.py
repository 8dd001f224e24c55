"""The checkpoints of a training: averaged weights, and a configuration that changed on resume."""

import logging
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..checkpoint import QueryInstCheckpointer
from ..checkpoint.content import Content
from ..checkpoint.layouts import is_average
from .ema import WeightAverage, trained_weights
from .resumed_config import compare_with_run

logger = logging.getLogger(__name__)


class TrainingCheckpointer(QueryInstCheckpointer):
    """Writes as "model" what evaluation measures, which is the average if there is one.

    The weights that training goes on from are in "ema" then. On resume it says what a changed
    configuration means (`compare_with_run`).
    """

    def __init__(self, model: nn.Module, save_dir: str, *, average: WeightAverage | None, **more):
        """
        Args:
            average: of a training with SOLVER.EMA.
            more: as `QueryInstCheckpointer`'s.
        """
        super().__init__(model, save_dir, **more)
        self._average = average
        if average:
            self.add_checkpointable("ema", average)

    def _weights(self) -> dict[str, Tensor]:
        return self._average.model.state_dict() if self._average else super()._weights()

    def _newest_readable(self) -> Content:
        content = super()._newest_readable()
        compare_with_run(content.meta, self.meta, content.label)
        is_other = "ema" in self.checkpointables  # of a script of the user's, perhaps
        if is_other or not is_average({"model": None, **content.rest}):
            return content
        logger.warning(
            "Resuming without SOLVER.EMA: training goes on from the weights that were trained, and"
            " their average ends here"
        )
        try:
            return replace(content, tensors=trained_weights(content.rest["ema"]))
        except ValueError as error:
            raise ValueError(f"{content.label}: {error}") from error

    def _apply(self, content: Content, *args: Any, **kwargs: Any) -> dict[str, Any]:
        rest = super()._apply(content, *args, **kwargs)
        if self._average and ("ema" in rest or "ema" not in content.rest):  # it was not restored
            self._average.start_anew()
        return rest
