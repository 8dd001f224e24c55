"""From a name of the model zoo, or a file, to a model that predicts."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from queryinst_runtime.description import category_ids_of

from .. import model_zoo
from ..checkpoint import read_meta
from ..engine.predictor import Predictor, cfg_from_checkpoint
from ..engine.setup import setup_cfg
from ..yaml_files import is_remote
from .eager import EagerBackend
from .exported import is_exported, open_exported
from .model import Model

_ZOO_FOLDER = "COCO-InstanceSegmentation/"
_DEVICE, _THRESHOLD = "MODEL.DEVICE", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"


def load(
    name_or_file: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    score: float = 0.0,
    config_file: str | os.PathLike = "",
    opts: Sequence[str] = (),
) -> Model:
    """A model that predicts.

    Args:
        name_or_file: a name of the model zoo, such as "R_50_FPN_3x_300q", whose published weights
            are downloaded once; or a file or an address that this project reads; or a file of
            `queryinst.export.export`.
        device: "cuda", "cuda:1", "cpu"; None for MODEL.DEVICE of `opts`, else for a GPU where
            there is one, else the CPU.
        score: objects that do not exceed it are left out; 0 for what `opts` say.
        config_file: of a checkpoint that does not carry its configuration.
        opts: key, value, key, value, ... which win over the configuration.

    Raises:
        ValueError: no model has this name; the file is none or does not fit; or an option is
            invalid. One line.
        OSError: the file cannot be read or downloaded.
        KeyError: a key in `opts` is unknown.
    """
    path = find_weights(name_or_file)
    device = None if device is None else str(device)
    if is_exported(path):
        if config_file or opts:
            raise ValueError(f"{path} is an exported model, which no configuration changes")
        return Model(open_exported(path, device), score)
    if config_file:
        cfg = setup_cfg(os.fspath(config_file), opts, weights=path)
    else:
        cfg = cfg_from_checkpoint(path, opts)
    predictor = Predictor(on_device(cfg, device, opts))
    if not score and _THRESHOLD in opts[::2]:
        score = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    id_map = (read_meta(path) or {}).get("dataset_id_map") or {}
    category_ids = category_ids_of(id_map, predictor.cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    return Model(EagerBackend(predictor, category_ids), score)


def on_device(cfg: CfgNode, device: str | None, opts: Sequence[str] = ()) -> CfgNode:
    """The configuration with a device; None for that of `opts`, else a GPU where there is one."""
    if device is None and _DEVICE in opts[::2]:
        return cfg
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
    published = _published()
    name = _short_name(text.removeprefix(_ZOO_FOLDER))
    if name not in published:
        raise ValueError(
            f"no model {text!r}: there is no such file in {os.getcwd()}, and no published model of"
            f" this name; those are {', '.join(published)}"
        )
    return published[name]


def published_names() -> list[str]:
    """The names of the models that have published weights, such as "R_50_FPN_3x_300q"."""
    return list(_published())


def _published() -> dict[str, str]:
    """queryinst:// addresses by names."""
    entries = model_zoo.load_models()
    urls = {Path(x.config).name: x.checkpoint_url for x in entries}
    return {_short_name(config): url for config, url in urls.items() if url}


def _short_name(config: str) -> str:
    return config.removesuffix(".yaml").removeprefix("queryinst_")
