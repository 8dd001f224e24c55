"""Training, evaluation and prediction."""

from .setup import setup_cfg
from .train_net import evaluate, main, run, train
from .trainer import Trainer

__all__ = ["Trainer", "evaluate", "main", "run", "setup_cfg", "train"]
