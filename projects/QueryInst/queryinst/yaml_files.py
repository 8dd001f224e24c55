"""Reading yaml that others wrote: plain values, from local files, within limits.

Nothing that a yaml text says is executed or fetched. Its nodes are counted before one is built, so
that neither aliases of aliases nor deep nesting take time or memory.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000  # of a text; a run's config.yaml has 10,000
MAX_NODES = 50_000  # mappings, lists, keys and values, with what aliases repeat
MAX_DEPTH = 50  # of mappings and lists in each other; a configuration has 5
MAX_FILES = 50  # that a configuration and its bases are read from

_BASE = "_BASE_"
_PLAIN_TAGS = {None, "!"} | {
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "map", "null", "seq", "str")
}
_NOT_LOCAL = (
    "{} is not a local file; configurations are read from local files alone: download it, look at"
    " it, and name the copy"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Digits to the base of 60, which PyYAML reads, take time by the square of their number.
_LONG_NUMBER = re.compile(r"[-+]?(?:0[xX])?[0-9a-fA-F_:.]{400,}")


@dataclass
class _Size:
    """Of a node, with what its aliases repeat."""

    anchor: str | None
    nodes: int = 0
    levels: int = 0

    def add(self, child: "_Size") -> None:
        self.nodes += child.nodes
        self.levels = max(self.levels, child.levels + 1)


def load_yaml(text: Any, label: str) -> Any:
    """The plain Python value of a yaml text.

    Args:
        text: a str; anything else is refused.
        label: how messages name the text.

    Raises:
        ValueError: it is not valid yaml, has a tag that builds an object, or is larger than the
            limits of this module. One line.
    """
    if not isinstance(text, str):
        raise ValueError(f"{label} is of type {type(text).__name__}, not a yaml text")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{label} has more than {MAX_CHARACTERS:,} characters of yaml")
    try:
        _check_nodes(text, label)
    except yaml.YAMLError as error:
        raise _explained(error, label) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _explained(error, label) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own for scalars such as !!int "" and 2020-99-99
        raise ValueError(f"{label} is not valid yaml: a value does not fit its type") from error


def load_local_yaml(path: str) -> Any:
    """As `load_yaml`, of a local file; a scheme such as https:// is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `load_yaml`; or it is no local file, or no text file. One line.
    """
    if is_remote(path):
        raise ValueError(_NOT_LOCAL.format(path))
    if not stat.S_ISREG(os.stat(path).st_mode):  # a device never ends
        raise ValueError(f"{path} is a folder or a device, not a yaml file")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error.reason})") from error
    return load_yaml(text, path)


def is_remote(path: str) -> bool:
    """Whether the path has a scheme: http://, s3://, detectron2://, ..."""
    return _SCHEME.match(path) is not None


def load_config_file(path: str) -> dict[str, Any]:
    """The keys of a configuration file, over those of the files that its _BASE_ names.

    As fvcore's `CfgNode.load_yaml_with_base`: a _BASE_ is a path, relative to the file that names
    it, or a list of paths, of which the later override the earlier.

    Raises:
        FileNotFoundError: the file or a base does not exist.
        ValueError: as `load_local_yaml`; or a file is not a mapping, its _BASE_ is not a path, or
            leads back to a file that names it. One line.
    """
    return _load_with_bases(path, (), iter(range(MAX_FILES)))


def _explained(error: yaml.YAMLError, label: str) -> ValueError:
    mark = getattr(error, "problem_mark", None)
    where = f"{label}, line {mark.line + 1}," if mark else label
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    problem = ", ".join(filter(None, parts)) or " ".join(str(error).split())
    return ValueError(f"{where} is not valid yaml: {problem}")


def _load_with_bases(path: str, named_by: tuple[str, ...], left: Iterator[int]) -> dict[str, Any]:
    if os.path.realpath(path) in map(os.path.realpath, named_by):
        raise ValueError(f"{named_by[0]}: its _BASE_ leads back to {path}, a file that names it")
    if next(left, None) is None:
        raise ValueError(f"{named_by[0]}: its _BASE_ leads to more than {MAX_FILES} files")
    try:
        content = load_local_yaml(path)
    except FileNotFoundError as error:
        if not named_by:
            raise
        raise FileNotFoundError(
            f"{named_by[0]}: {path}, which a _BASE_ names, does not exist"
        ) from error
    except OSError as error:  # no permission, a name that is too long
        where = f"{named_by[0]}: {path[:200]}, which a _BASE_ names," if named_by else path[:200]
        raise OSError(f"{where} cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a configuration, a yaml mapping of keys to values")
    merged: dict[str, Any] = {}
    for base in _bases_of(content, path):
        merged = _merged(merged, _load_with_bases(base, (*named_by, path), left), path)
    return _merged(merged, content, path)


def _bases_of(content: dict[str, Any], path: str) -> list[str]:
    """Remove _BASE_, and return its paths."""
    bases = content.pop(_BASE, [])
    paths = []
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base or not base.isprintable():
            raise ValueError(f"{path} is not a configuration: its _BASE_ holds what is no path")
        if is_remote(base):
            raise ValueError(f"{path}: its _BASE_ {_NOT_LOCAL.format(base)}")
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        if os.path.isdir(base):
            raise ValueError(f"{path}: its _BASE_ {base} is a folder")
        paths.append(base)
    return paths


def _merged(base: dict[str, Any], over: dict[str, Any], path: str) -> dict[str, Any]:
    """A new dict of both, so that a mapping which an alias repeats does not change elsewhere."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and key in base:
            if not isinstance(base[key], dict):
                raise ValueError(
                    f"{path}: {key} has keys of its own, but it is a value in a _BASE_"
                )
            value = _merged(base[key], value, path)
        merged[key] = value
    return merged


def _check_scalar_and_tag(event: yaml.Event, where: str) -> None:
    if (tag := getattr(event, "tag", None)) not in _PLAIN_TAGS:
        tag = str(tag).replace("tag:yaml.org,2002:", "!!")
        raise ValueError(f"{where} has the tag {tag}; only plain values are read, no objects")
    if isinstance(event, yaml.ScalarEvent) and (tag or event.style is None):
        if _LONG_NUMBER.fullmatch(event.value):
            raise ValueError(f"{where} has a number of {len(event.value):,} digits")


def _check_nodes(text: str, label: str) -> None:
    """Refuse what `yaml.safe_load` would build from too many nodes, or with too many levels."""
    repeated: dict[str, _Size] = {}  # of the anchors so far
    open_nodes = [_Size(None)]  # the document, and the collections that have not ended
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{label}, line {event.start_mark.line + 1},"
        _check_scalar_and_tag(event, where)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Size(event.anchor, nodes=1, levels=1))
            node = _Size(None)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == node.anchor for node in open_nodes):
                raise ValueError(f"{where} has *{event.anchor} within &{event.anchor} itself")
            node = repeated.get(event.anchor, _Size(None))
        elif isinstance(event, yaml.ScalarEvent):
            node = _Size(event.anchor, nodes=1)
        else:
            continue
        repeated |= {node.anchor: node} if node.anchor else {}
        open_nodes[-1].add(node)
        if len(open_nodes) + node.levels > MAX_DEPTH:
            raise ValueError(f"{where} nests mappings and lists more than {MAX_DEPTH} levels deep")
        if open_nodes[-1].nodes > MAX_NODES:
            raise ValueError(
                f"{where} has more than {MAX_NODES:,} values, with what aliases repeat"
            )
