"""From a file in MMDetection's layout to a checkpoint that any Detectron2 loader reads."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ..checkpoint.files import read_checkpoint, write_checkpoint
from ..checkpoint.layouts import tensors_of
from ..checkpoint.loading import match_state_dict
from ..checkpoint.meta import build_meta
from .downloads import unwritable
from .metadata import ModelEntry

logger = logging.getLogger(__name__)

# Part of the converted files' names in the cache: raise it when what is written changes.
CONVERTER_VERSION = 1


def convert_published(
    source: str, target: str, *, entry: ModelEntry, cfg: CfgNode, digest: str
) -> None:
    """Write the published file `source` to `target` in Detectron2's layout, with `meta`.

    Args:
        cfg: the entry's configuration; the file must fill all of its model and have nothing else.
        digest: sha256 of `source`.

    Raises:
        ValueError: the file is damaged, or of another model than the configuration's; the message
            has both numbers and the key.
        OSError: `target` can't be written.
    """
    label = f"{source} ({entry.name} of models.yaml)"
    state = _fill(model_state(cfg), tensors_of(read_checkpoint(source, label), label), label)
    checkpoint = {"model": state, "meta": _meta(entry, cfg, digest)}
    try:
        write_checkpoint(target, checkpoint)
    except OSError as error:
        raise unwritable(target, error.__cause__ or error) from error
    logger.info("Converted %s to %s", source, target)


def model_state(cfg: CfgNode) -> dict[str, Tensor]:
    """The state dict of the configuration's model without its values, on torch's meta device."""
    return dict(build_on_meta(cfg).state_dict())


def build_on_meta(cfg: CfgNode) -> torch.nn.Module:
    """The configuration's model with shapes and types alone: no memory, no initialisation."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def _fill(state: dict[str, Tensor], tensors: dict[str, Tensor], label: str) -> dict[str, Tensor]:
    """The file's tensors by the model's names, all that the model's state dict has."""
    try:
        matched = match_state_dict(state, tensors, label=label, partial=False, complete=True)
    except KeyError as error:
        raise ValueError(str(error.args[0])) from error
    return matched.whole_state(state)


def _meta(entry: ModelEntry, cfg: CfgNode, digest: str) -> dict[str, Any]:
    """What the file says of itself; its configuration names the published weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = entry.checkpoint_url
    dataset_name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else None
    return {
        **build_meta(cfg, dataset_name),
        "source": entry.url,
        "digest": digest,
        "licence": entry.licence,
        "attribution": entry.attribution,
        "training_data": entry.training_data,
    }
