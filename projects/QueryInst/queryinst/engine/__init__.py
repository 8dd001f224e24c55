"""Training, evaluation and prediction."""

from .main import evaluate, main, run, train
from .setup import setup_cfg
from .trainer import Trainer

__all__ = ["Trainer", "evaluate", "main", "run", "setup_cfg", "train"]
