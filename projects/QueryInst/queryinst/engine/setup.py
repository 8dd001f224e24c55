"""From a configuration file and command-line options to a frozen configuration."""

import difflib
import os
import re
from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .. import model_zoo
from ..config import add_queryinst_config


def setup_cfg(config_file: str, opts: Sequence[str] = (), *, weights: str | None = None) -> CfgNode:
    """Read a configuration.

    Args:
        config_file: a path, or the name of a model-zoo file such as
            "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml". Empty for the defaults.
        opts: key, value, key, value, ... which win over the file.
        weights: MODEL.WEIGHTS, which win over both.

    Returns:
        The frozen configuration.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: a key that does not exist; names the closest one that does.
        ValueError: not a yaml mapping, a value of the wrong type, or an odd number of `opts`.
    """
    cfg = get_cfg()
    add_queryinst_config(cfg)
    if config_file:
        _merge(cfg, lambda: cfg.merge_from_file(_find(config_file)), config_file)
    if len(opts) % 2:
        raise ValueError(
            f"{len(opts)} options after the flags; they come as KEY VALUE pairs: {list(opts)}"
        )
    _merge(cfg, lambda: cfg.merge_from_list(list(opts)), "the command line")
    if weights is not None:
        cfg.MODEL.WEIGHTS = weights
    cfg.freeze()
    return cfg


def _find(config_file: str) -> str:
    """The file itself, or the model zoo's of that name."""
    if PathManager.exists(config_file):
        if PathManager.isdir(config_file):
            raise FileNotFoundError(f"--config-file {config_file} is a folder, not a yaml file")
        return config_file
    try:
        return model_zoo.get_config_file(config_file)
    except Exception:
        raise FileNotFoundError(
            f"no file {config_file}, neither from {os.getcwd()} nor in the model zoo; set --config-file"
        ) from None


def _merge(cfg: CfgNode, merge, source: str) -> None:
    """Run `merge` and turn what it raises for bad input into one line."""
    try:
        merge()
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ValueError(f"{source}{line} is not valid yaml: {problem}") from None
    except KeyError as error:
        key = re.sub(r"^.*:\s*", "", str(error.args[0]))
        close = difflib.get_close_matches(key, _all_keys(cfg), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise KeyError(f"unknown key {key} in {source}{hint}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from None
    except (AssertionError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source} is not a configuration (a yaml mapping of keys): {reason}"
        ) from None


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys
