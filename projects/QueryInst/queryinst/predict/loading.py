"""From a name of the model zoo, or a file, to a model that predicts."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from .. import model_zoo
from ..checkpoint import read_meta
from ..engine.predictor import Predictor, cfg_from_checkpoint
from ..engine.setup import setup_cfg
from ..yaml_files import is_remote
from .eager import EagerBackend, category_ids_of
from .model import Model

_ZOO_FOLDER = "COCO-InstanceSegmentation"


def load(
    name_or_file: str | os.PathLike,
    *,
    device: str | None = None,
    score: float = 0.0,
    config_file: str = "",
    opts: Sequence[str] = (),
) -> Model:
    """A model that predicts.

    Args:
        name_or_file: a name of the model zoo, such as "R_50_FPN_3x_300q", whose published weights
            are downloaded once; or a file or an address that this project reads.
        device: "cuda", "cuda:1", "cpu"; None for a GPU where there is one, else the CPU.
        score: objects that do not exceed it are left out.
        config_file: of a checkpoint that does not carry its configuration.
        opts: key, value, key, value, ... which win over the configuration.

    Raises:
        ValueError: no model has this name; the file is none or does not fit; or an option is
            invalid. One line.
        OSError: the file cannot be read or downloaded.
        KeyError: a key in `opts` is unknown.
    """
    path = find_weights(name_or_file)
    if config_file:
        cfg = setup_cfg(config_file, opts, weights=path)
    else:
        cfg = cfg_from_checkpoint(path, opts)
    predictor = Predictor(on_device(cfg, device))
    num_classes = predictor.cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return Model(EagerBackend(predictor, category_ids_of(read_meta(path), num_classes)), score)


def on_device(cfg: CfgNode, device: str | None) -> CfgNode:
    """The configuration with a device; None for a GPU where there is one."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg.freeze()
    return cfg


def find_weights(name_or_file: str | os.PathLike) -> str:
    """The path or address of a file of weights; a name of the zoo becomes its queryinst:// address.

    Raises:
        ValueError: it is neither a file nor a name; the message lists the names.
    """
    text = os.fspath(name_or_file)
    if isinstance(text, bytes):
        raise ValueError(f"the model {text!r} must be a name or a path as text, not bytes")
    if is_remote(text) or os.path.exists(text):
        return text
    config = f"{_ZOO_FOLDER}/queryinst_{_short_name(text)}.yaml"
    try:
        return model_zoo.get_checkpoint_url(config)
    except RuntimeError:
        names = ", ".join(published_names())
        raise ValueError(
            f"no model {text!r}: there is no such file in {os.getcwd()}, and no published model of"
            f" this name; those are {names}"
        ) from None


def published_names() -> list[str]:
    """The names of the models that have published weights, such as "R_50_FPN_3x_300q"."""
    entries = model_zoo.load_models()
    return [_short_name(entry.config) for entry in entries if entry.checkpoint_url]


def _short_name(text: str) -> str:
    return Path(text).name.removesuffix(".yaml").removeprefix("queryinst_")
