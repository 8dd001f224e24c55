"""Merging what users wrote, yaml files and KEY VALUE pairs, into a configuration."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode, get_cfg

from .config import add_queryinst_config
from .yaml_files import load_config_file

_UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: (\S+)")
_TYPE_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?P<wanted>.+?)'> vs\. <class '(?P<given>.+?)'>\) with values "
    r"\((?P<default>.*) vs\. (?P<value>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)


def default_cfg() -> CfgNode:
    """Detectron2's defaults and QueryInst's, not frozen."""
    cfg = get_cfg()
    add_queryinst_config(cfg)
    return cfg


def merge_file(cfg: CfgNode, path: str, source: str) -> None:
    """Merge a yaml file, over those that its _BASE_ names. Nothing in them is executed or fetched.

    Args:
        source: how the user named the file.

    Raises:
        FileNotFoundError: the file, or a file that a _BASE_ names, does not exist.
        KeyError: a key does not exist; the message names the closest one. Or a key was renamed;
            the message names the new one and its value.
        ValueError: not a yaml mapping of plain values, or a value has the wrong type. One line.
    """
    merge_keys(cfg, load_config_file(path), source)


def merge_keys(cfg: CfgNode, keys: Mapping[str, Any], source: str) -> None:
    """Merge sections and values; raises as `merge_file`."""
    defaults = cfg.clone()
    with _explaining(cfg, source):
        node = CfgNode(dict(keys))
        version = node.get("VERSION", cfg.VERSION)
        if version != cfg.VERSION:
            raise ValueError(f"VERSION is {version!r}; only {cfg.VERSION} has QueryInst's keys")
        cfg.merge_from_other_cfg(node)
    _check_values(cfg, defaults)


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge key, value, key, value, ... of a command line.

    Raises:
        KeyError, ValueError: as `merge_file`; or the number of `opts` is odd.
    """
    _check_opts(cfg, opts)
    defaults = cfg.clone()
    with _explaining(cfg, "the command line"):
        cfg.merge_from_list(list(opts))
    _check_values(cfg, defaults)


@contextmanager
def _explaining(cfg: CfgNode, source: str) -> Iterator[None]:
    """Turn the errors of merging into one line."""
    try:
        yield
    except (RecursionError, MemoryError):  # of Python's parser, which yacs reads texts with
        raise ValueError(f"{source}: a value is nested too deeply to be read") from None
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _explain(error, cfg, source) from error


def _explain(error: Exception, cfg: CfgNode, source: str) -> Exception:
    """The error to raise for one of yacs', of which only the messages differ."""
    text = " ".join(str(error.args[0]).split()) if error.args else ""
    if unknown := _UNKNOWN_KEY.search(text):
        return _unknown_key(unknown[1], cfg, source)
    if mismatch := _TYPE_MISMATCH.search(text):
        wanted, given, value, key = mismatch.group("wanted", "given", "value", "key")
        is_example = wanted in ("tuple", "list") and len(value) <= 60
        hint = f"; a {wanted} of one is written ({value!r},)" if is_example else ""
        return ValueError(
            f"{key} in {source} is {_shortened(value)}, of type {_plain_type(given)}; "
            f"it must be of type {_plain_type(wanted)}{hint if given == 'str' else ''}"
        )
    if isinstance(error, (KeyError, ValueError)):
        return type(error)(f"{source}: {_shortened(text)}")
    reason = f" ({_shortened(text)})" if isinstance(error, AssertionError) and text else ""
    return ValueError(f"{source} is not a configuration, a yaml mapping of keys to values{reason}")


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _plain_type(name: str) -> str:
    return "section with keys of its own" if name.endswith("CfgNode") else name


def _check_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    known = set(_all_keys(cfg))
    for key in opts[::2]:
        if str(key).startswith("--"):
            raise ValueError(
                f"{_shortened(key)} is too late; flags come before the first KEY VALUE pair"
            )
    if len(opts) % 2:
        raise ValueError(
            f"{len(opts)} words after the flags, which must be KEY VALUE pairs: "
            + _shortened(" ".join(" ".join(map(str, opts)).split()))
        )
    for key in opts[::2]:
        if key not in known and key != "_BASE_" and not cfg.key_is_renamed(key):
            raise _unknown_key(str(key), cfg, "the command line")


def _unknown_key(key: str, cfg: CfgNode, source: str) -> KeyError:
    keys = _all_keys(cfg)
    close = [known for known in keys if known.endswith(f".{key}")]
    close = close or difflib.get_close_matches(key[:200], keys, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return KeyError(f"unknown key {_shortened(key)} in {source}{hint}")


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


def _check_values(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """Refuse what yacs accepts for every type, and numbers that nothing can print."""
    for name, default in defaults.items():
        value = cfg.get(name)
        if isinstance(default, CfgNode) and isinstance(value, CfgNode):
            _check_values(value, default, f"{prefix}{name}.")
        elif value is None and default is not None:  # in yaml: null, or nothing after the colon
            raise ValueError(
                f"{prefix}{name} is None; it must be of type {type(default).__name__}, "
                f"the default is {default!r}"
            )
        elif any(isinstance(x, int) and x.bit_length() > 64 for x in _flat(value)):
            raise ValueError(f"{prefix}{name} has an integer of more than 64 bits")


def _flat(value: Any) -> Iterator[Any]:
    for x in value if isinstance(value, (list, tuple)) else ():
        yield from _flat(x)
    yield value
