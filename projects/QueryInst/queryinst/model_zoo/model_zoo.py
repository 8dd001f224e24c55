"""QueryInst's configurations by name, with the functions of Detectron2's own model zoo."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import QueryInstCheckpointer
from ..config_files import default_cfg, merge_file
from ..devices import resolve_device
from .metadata import ModelEntry, load_models, models_yaml


def get_config_file(config_path: str) -> str:
    """The absolute path of one of QueryInst's configuration files.

    Args:
        config_path: relative to `configs/`, for instance
            "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml".

    Raises:
        RuntimeError: there is none of that name; the message lists all.
    """
    config_dir = _find_config_dir()
    names = _config_names(config_dir)
    if config_path not in names:
        raise RuntimeError(f"no configuration {config_path!r}; there are: {', '.join(names)}")
    return str(config_dir / config_path)


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """The configuration of that name (see `get_config_file`), not frozen.

    Args:
        trained: MODEL.WEIGHTS is the published model's queryinst:// name; else it is the file's
            own, which for most is a pretrained backbone. Nothing is downloaded.

    Raises:
        RuntimeError: as `get_config_file` and, if `trained`, `get_checkpoint_url`.
    """
    cfg = _read(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> torch.nn.Module:
    """The model of that name (see `get_config_file`), in training mode as Detectron2 gives it.

    Args:
        trained: with the published weights, all of them; they are downloaded and converted once.
            Without it the weights are random: nothing is downloaded or loaded, a pretrained
            backbone neither.
        device: replaces the configuration's. A GPU where there is none becomes the CPU, with one
            warning.

    Raises:
        RuntimeError: as `get_config`.
        ValueError, OSError: the weights can't be had, or do not fit; one line.
    """
    cfg = get_config(config_path, trained)
    cfg.MODEL.DEVICE = resolve_device(device or cfg, training=False)
    model = build_model(cfg)
    if trained:
        model.eval()  # in evaluation mode no key may be missing
        QueryInstCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        model.train()
    return model


def get_checkpoint_url(config_path: str) -> str:
    """The queryinst:// name of that model's published weights, which any Detectron2 loader reads.

    Raises:
        RuntimeError: there is no such configuration, or nobody published its weights at a stable
            address; the message lists those that have some.
    """
    get_config_file(config_path)  # a misspelt name is the first thing to say
    urls = {entry.config: entry.checkpoint_url for entry in load_models() if entry.checkpoint_url}
    if config_path not in urls:
        raise RuntimeError(
            f"no published weights for {config_path!r}; there are for: {', '.join(urls)}"
        )
    return urls[config_path]


def config_of(entry: ModelEntry) -> CfgNode:
    """The configuration of an entry of models.yaml, not frozen.

    Raises:
        ValueError: `entry.config` is neither a name of the model zoo nor a file by its path from
            the folder of models.yaml.
    """
    config_dir = _find_config_dir()
    if entry.config in _config_names(config_dir):
        return _read(str(config_dir / entry.config))
    path = models_yaml().absolute().parent / entry.config
    if not path.is_file():
        raise ValueError(
            f"{models_yaml()}, entry {entry.name}, config {entry.config!r} must be a name of the"
            f" model zoo or a path from that file's folder, where there is no {path}"
        )
    return _read(str(path))


def _read(config_file: str) -> CfgNode:
    cfg = default_cfg()
    merge_file(cfg, config_file, config_file)
    return cfg


def _config_names(config_dir: Path) -> list[str]:
    return sorted(path.relative_to(config_dir).as_posix() for path in config_dir.rglob("*.yaml"))


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
