"""QueryInst's configurations by name, with the functions of Detectron2's own model zoo."""

from pathlib import Path
from typing import NoReturn

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from ..config import add_queryinst_config
from ..devices import resolve_device


def get_config_file(config_path: str) -> str:
    """The absolute path of one of QueryInst's configuration files.

    Args:
        config_path: relative to `configs/`, for instance
            "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml".

    Raises:
        RuntimeError: there is none of that name; the message lists all.
    """
    config_dir = _find_config_dir()
    names = sorted(path.relative_to(config_dir).as_posix() for path in config_dir.rglob("*.yaml"))
    if config_path not in names:
        raise RuntimeError(f"no configuration {config_path!r}; there are: {', '.join(names)}")
    return str(config_dir / config_path)


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """The configuration of that name (see `get_config_file`), not frozen.

    `MODEL.WEIGHTS` is the file's own, which for most is a pretrained backbone.

    Raises:
        NotImplementedError: `trained`; there are no trained weights to name yet.
    """
    if trained:
        _refuse_trained(config_path)
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.merge_from_file(get_config_file(config_path))
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> torch.nn.Module:
    """The model of that name (see `get_config_file`) with random weights, in training mode.

    Nothing is downloaded or loaded, a pretrained backbone neither.

    Args:
        device: replaces the configuration's. A GPU where there is none becomes the CPU, with one
            warning.

    Raises:
        NotImplementedError: `trained`; there are no trained weights to load yet.
    """
    cfg = get_config(config_path, trained)
    cfg.MODEL.DEVICE = resolve_device(device or cfg, training=False)
    return build_model(cfg)


def get_checkpoint_url(config_path: str) -> str:
    """The address of that model's trained weights; none is known yet.

    Raises:
        NotImplementedError: always.
    """
    _refuse_trained(config_path)


def _refuse_trained(config_path: str) -> NoReturn:
    get_config_file(config_path)  # a misspelt name is the first thing to say
    raise NotImplementedError(
        f"this version knows no trained weights for {config_path!r}; "
        "train it, or leave out trained=True"
    )


def _find_config_dir() -> Path:
    """`configs/`: a built wheel's copy, else the one at the top of the checkout."""
    here = Path(__file__).resolve()
    candidates = [folder / "configs" for folder in (here.parent, *here.parents[4:5])]
    for config_dir in candidates:
        if (config_dir / "Base-QueryInst.yaml").is_file():
            return config_dir
    looked_in = " and ".join(map(str, candidates))
    raise RuntimeError(
        f"queryinst's configurations are in neither of {looked_in}; install it again"
    )
