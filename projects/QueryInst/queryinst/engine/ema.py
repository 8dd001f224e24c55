"""The exponential moving average of the weights (SOLVER.EMA)."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

Tensors = list[Tensor] | tuple[Tensor, ...]


class WeightAverage:
    """The average of a model's weights over the steps, as a model of its own.

    It is torch's AveragedModel. Parameters and the statistics of batch norms are averaged alike, as
    timm and YOLO do, so that norms fit the averaged weights; counters are copied. A step that the
    optimizer does not take, because it is left out or overflows in fp16, does not count.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float):
        """
        Args:
            model: not wrapped for distributed training; all processes have the same parameters,
                and so the same average of them.
            decay: SOLVER.EMA.DECAY. The n-th step has min(decay, n / (9 + n)), so that the first
                weights are soon forgotten; the average begins with the weights of the first step.
        """
        self._model = model
        self._decay = decay
        self._average = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self._average.requires_grad_(False)
        optimizer.register_step_post_hook(self._add_step)

    @property
    def model(self) -> nn.Module:
        """What evaluation takes, in training mode until then."""
        return self._average.module

    @torch.no_grad()
    def _add_step(self, *_: Any) -> None:
        self._average.update_parameters(self._model)

    def _blend(self, averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        """Tensors of one type and device; the number of steps is read on the CPU."""
        if not averages[0].is_floating_point():
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
            return
        num = int(self._average.n_averaged)  # before this step, which is step num + 1
        decay = min(self._decay, (1 + num) / (10 + num))
        torch._foreach_lerp_(averages, values, 1 - decay)

    def agree(self) -> None:
        """Take the main process's statistics of batch norms, which its checkpoints hold."""
        if comm.get_world_size() > 1:
            for buffer in self.model.buffers():
                distributed.broadcast(buffer, 0)

    def start_anew(self) -> None:
        """Begin with the weights that the model has now."""
        self.model.load_state_dict(self._model.state_dict())
        self._average.n_averaged.zero_()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint, whose "model" is the average, needs beside that to go on."""
        return {
            "num_averaged": int(self._average.n_averaged),
            "trained": self._model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; the model holds the average, as it is loaded from the checkpoint's "model".

        Raises:
            ValueError: the state is none of this class, or does not fit the model.
        """
        num = state.get("num_averaged")
        if type(num) is not int or num < 0:
            raise ValueError(f"num_averaged is {num!r}; it must be a whole number from 0")
        trained = trained_weights(state)
        self.start_anew()
        self._average.n_averaged.fill_(num)
        self._model.load_state_dict(trained)


def build_average(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
) -> WeightAverage | None:
    """None unless SOLVER.EMA.ENABLED."""
    ema = cfg.SOLVER.EMA
    return WeightAverage(model, optimizer, ema.DECAY) if ema.ENABLED else None


def trained_weights(state: Any) -> dict[str, Tensor]:
    """The weights that training goes on from, in the `ema` of a checkpoint.

    Raises:
        ValueError: it holds none.
    """
    trained = state.get("trained") if isinstance(state, dict) else None
    if not isinstance(trained, dict) or not all(isinstance(x, Tensor) for x in trained.values()):
        raise ValueError("'ema' holds no state dict 'trained'")
    return trained
