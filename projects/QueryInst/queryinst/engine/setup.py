"""From a configuration file and command-line options to a frozen configuration."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .. import model_zoo
from ..config import add_queryinst_config
from ..devices import resolve_device

_UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: (\S+)")
_TYPE_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<wanted>.+?)'> vs\. <class '(?P<given>.+?)'>\) with values "
    r"\((?P<default>.*) vs\. (?P<value>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)


def setup_cfg(config_file: str, opts: Sequence[Any] = (), *, weights: str | None = None) -> CfgNode:
    """Read a configuration.

    Args:
        config_file: a path, or the name of a model-zoo file such as
            "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml". Empty for the defaults.
        opts: key, value, key, value, ... which override the file.
        weights: MODEL.WEIGHTS, which override both.

    Returns:
        The frozen configuration.

    Raises:
        FileNotFoundError: the file, or a file that a _BASE_ names, does not exist.
        KeyError: a key does not exist; the message names the closest one. Or a key was renamed;
            the message names the new one and its value.
        ValueError: the file is not a yaml mapping, a value has the wrong type, or the number of
            `opts` is odd.
    """
    cfg = get_cfg()
    add_queryinst_config(cfg)
    defaults = cfg.clone()
    if config_file:
        path = find_config_file(config_file)
        with _explaining(cfg, config_file):
            cfg.merge_from_file(path)
    _check_opts(cfg, opts)
    with _explaining(cfg, "the command line"):
        cfg.merge_from_list(list(opts))
    _check_nothing_unset(cfg, defaults)
    if weights is not None:
        cfg.MODEL.WEIGHTS = weights
    cfg.freeze()
    return cfg


def find_config_file(config_file: str) -> str:
    """The path of the file itself, or of the model zoo's file of that name.

    Raises:
        FileNotFoundError: neither exists.
    """
    if PathManager.isfile(config_file):
        return config_file
    if PathManager.isdir(config_file):
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
    if device == cfg.MODEL.DEVICE:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg


@contextmanager
def _explaining(cfg: CfgNode, source: str) -> Iterator[None]:
    """Turn the errors of merging into one line."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(_explain_yaml(error, source)) from error
    except FileNotFoundError as error:  # the file itself exists
        raise FileNotFoundError(
            f"{source}: {error.filename}, which a _BASE_ names, does not exist"
        ) from error
    except RecursionError:
        raise ValueError(f"{source}: its _BASE_ leads back to a file that names it") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not a text file ({error.reason})") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _explain(error, cfg, source) from error


def _explain_yaml(error: yaml.YAMLError, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = f"{mark.name}, line {mark.line + 1}," if mark else source
    return f"{where} is not valid yaml: {problem}"


def _explain(error: Exception, cfg: CfgNode, source: str) -> Exception:
    """The error to raise for one of yacs', of which only the messages differ."""
    text = " ".join(str(error.args[0]).split()) if error.args else ""
    if unknown := _UNKNOWN_KEY.search(text):
        return _unknown_key(unknown[1], cfg, source)
    if mismatch := _TYPE_MISMATCH.search(text):
        wanted, given, value, key = mismatch.group("wanted", "given", "value", "key")
        hint = f"; a {wanted} of one is written ({value!r},)" if wanted in ("tuple", "list") else ""
        return ValueError(
            f"{key} in {source} is {value}, of type {_plain_type(given)}; "
            f"it must be of type {_plain_type(wanted)}{hint if given == 'str' else ''}"
        )
    if isinstance(error, (KeyError, ValueError)):
        return type(error)(f"{source}: {text}")
    reason = f" ({text})" if isinstance(error, AssertionError) and text else ""
    return ValueError(f"{source} is not a configuration, a yaml mapping of keys to values{reason}")


def _plain_type(name: str) -> str:
    return "section with keys of its own" if name.endswith("CfgNode") else name


def _check_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    known = set(_all_keys(cfg))
    for key in opts[::2]:
        if str(key).startswith("--"):
            raise ValueError(f"{key} is too late; flags come before the first KEY VALUE pair")
    if len(opts) % 2:
        raise ValueError(
            f"{len(opts)} words after the flags, which must be KEY VALUE pairs: "
            + " ".join(map(str, opts))
        )
    for key in opts[::2]:
        if key not in known and key != "_BASE_" and not cfg.key_is_renamed(key):
            raise _unknown_key(key, cfg, "the command line")


def _unknown_key(key: str, cfg: CfgNode, source: str) -> KeyError:
    keys = _all_keys(cfg)
    close = [known for known in keys if known.endswith(f".{key}")]
    close = close or difflib.get_close_matches(key, keys, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return KeyError(f"unknown key {key} in {source}{hint}")


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


def _check_nothing_unset(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """yacs accepts None (in yaml: null, or nothing after the colon) for every type."""
    for name, default in defaults.items():
        value = cfg.get(name)
        if isinstance(default, CfgNode) and isinstance(value, CfgNode):
            _check_nothing_unset(value, default, f"{prefix}{name}.")
        elif value is None and default is not None:
            raise ValueError(
                f"{prefix}{name} is None; it must be of type {type(default).__name__}, "
                f"the default is {default!r}"
            )
