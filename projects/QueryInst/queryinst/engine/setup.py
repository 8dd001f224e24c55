"""From a configuration file and command-line options to a frozen configuration."""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from .. import model_zoo
from ..config_files import default_cfg, merge_file, merge_opts
from ..devices import resolve_device
from ..yaml_files import is_remote


def setup_cfg(
    config_file: str | os.PathLike,
    opts: Sequence[Any] = (),
    *,
    weights: str | os.PathLike | None = None,
) -> CfgNode:
    """Read a configuration.

    Args:
        config_file: a local path, or the name of a model-zoo file such as
            "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml". Empty for the defaults.
        opts: key, value, key, value, ... which override the file.
        weights: MODEL.WEIGHTS, which override both.

    Returns:
        The frozen configuration.

    Raises:
        FileNotFoundError: the file, or a file that a _BASE_ names, does not exist.
        KeyError, ValueError: as `merge_file` and `merge_opts`. One line.
    """
    cfg = default_cfg()
    config_file = os.fspath(config_file)
    if config_file:
        merge_file(cfg, find_config_file(config_file), config_file)
    merge_opts(cfg, opts)
    if weights is not None:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    cfg.freeze()
    return cfg


def find_config_file(config_file: str) -> str:
    """The path of the file itself, or of the model zoo's file of that name.

    Raises:
        FileNotFoundError: neither exists.
    """
    if is_remote(config_file) or os.path.isfile(config_file):
        return config_file  # of which reading refuses the remote
    if os.path.isdir(config_file):
        raise FileNotFoundError(f"--config-file {config_file} is a folder, not a yaml file")
    try:
        return model_zoo.get_config_file(config_file)
    except RuntimeError:
        raise FileNotFoundError(
            f"--config-file {config_file} does not exist, neither in {os.getcwd()} nor in the "
            "model zoo"
        ) from None


def with_device(cfg: CfgNode, *, training: bool) -> CfgNode:
    """`cfg` with an available device; evaluation falls back to the CPU, training does not.

    Raises:
        ValueError: as `resolve_device`.
    """
    device = resolve_device(cfg, training=training)
    if device == "meta":
        raise ValueError("'meta' computes nothing; set MODEL.DEVICE to cuda, cuda:1 or cpu")
    if device == cfg.MODEL.DEVICE:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg
