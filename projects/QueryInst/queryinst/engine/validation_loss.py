"""The losses of a data set that is not trained on (TEST.VALIDATION_LOSS)."""

import logging
from collections import Counter
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..data.mapper import build_mapper
from ..data.seeds import seed_generators, seeded_generators
from .amp import training_autocast
from .stopping import EvaluationStopped, StoppableLoader, stop

logger = logging.getLogger(__name__)

_SEED = 0  # of what the loss draws for an image, such as the noise of denoising queries
# Modules that are as in evaluation: with running statistics, which stay as they are.
_AS_IN_EVALUATION = (_BatchNorm, _DropoutNd, nn.MultiheadAttention)


def validation_loss(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """The mean over the images of DATASETS.TEST[0] of the losses that each has as a batch of one.

    Images are as in evaluation, without augmentation. Nothing of the model changes, and the
    generators of random numbers are as before. Equal for any number of processes, to rounding.

    Args:
        model: in training mode; not wrapped for distributed training.

    Returns:
        "val_total_loss" and each loss by its name with "val_" before it; on processes other than
        the main one, and after a signal to stop, nothing.
    """
    name = cfg.DATASETS.TEST[0]
    mapper = build_mapper(cfg, is_train=False, with_instances=True)
    loader: Any = build_detection_test_loader(cfg, name, mapper=mapper)
    loader = StoppableLoader(loader) if stop.is_active else loader
    try:
        with seeded_generators(_SEED), EventStorage(), training_autocast(cfg):
            sums, num_images = _sum_losses(model, loader)
    except EvaluationStopped:
        return {}
    totals: Counter[str] = Counter()
    for other in comm.gather((sums, num_images)) or ():
        totals.update({**other[0], "": other[1]})
    num_images = totals.pop("", 0)
    if not num_images:
        return {}
    losses = {f"val_{loss}": value / num_images for loss, value in totals.items()}
    losses = {"val_total_loss": sum(losses.values()), **losses}
    logger.info(f"Validation loss of {name!r}: {losses['val_total_loss']:.4g}")
    return losses


@torch.no_grad()
def _sum_losses(model: nn.Module, loader: Any) -> tuple[dict[str, float], int]:
    """Sums over this process's images, and how many these are."""
    sums: dict[str, torch.Tensor] = {}
    num_images = 0
    for module in model.modules():
        if isinstance(module, _AS_IN_EVALUATION):
            module.eval()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            for batch in loader:
                seed_generators(_SEED)
                for name, loss in model(batch).items():
                    sums[name] = sums.get(name, 0) + loss.double()
                num_images += len(batch)
    finally:
        model.train()
    return {name: float(value) for name, value in sums.items()}, num_images
