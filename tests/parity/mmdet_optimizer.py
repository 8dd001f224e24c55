"""MMDetection's optimizer, built by mmengine from the model's configuration."""

import mmdet_peer  # noqa: F401  before anything of mmdet
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import OptimWrapper


class Optimizer:
    """Parameter groups, gradient clipping and the step of `cfg.optim_wrapper`."""

    def __init__(self, wrapper: OptimWrapper):
        self.wrapper = wrapper

    @property
    def param_groups(self) -> list[dict]:
        return self.wrapper.optimizer.param_groups

    def step(self) -> None:
        """Clip the gradients that lie in the model, then step; they stay."""
        self.wrapper.step()


def build_optimizer(cfg: Config, model: torch.nn.Module) -> Optimizer:
    return Optimizer(build_optim_wrapper(model, cfg.optim_wrapper))
