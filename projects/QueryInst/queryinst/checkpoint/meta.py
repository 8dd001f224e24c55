"""The `meta` of a checkpoint: plain types only, so that any loader can read it."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from .._version import __version__
from ..yaml_files import load_yaml
from .files import fetch, read_checkpoint

FORMAT_VERSION = 1
# Values of "kind". Inference-only checkpoints keep "slim": the file format is public.
_FULL, _INFERENCE_ONLY = "train", "slim"
_FORMATS = ("RGB", "BGR", "L", "YUV-BT.601")  # of Detectron2's INPUT.FORMAT

_MAX_VERSION, _MAX_CLASSES = 1_000_000, 100_000
_TEXT, _LONG_TEXT = 1000, 1_000_000  # characters


class LaterFormatError(ValueError):
    """A later version of this project wrote the file."""


def _is_text(value: Any, most: int = _TEXT) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_number(value: Any) -> bool:
    return type(value) is int and value.bit_length() < 64


def are_names(value: Any) -> bool:
    """Whether a value can be the names of classes: a list, not too long, of short texts."""
    return (
        isinstance(value, (list, tuple))
        and len(value) <= _MAX_CLASSES
        and all(map(_is_text, value))
    )


def _is_id_map(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MAX_CLASSES
        and all(_is_number(theirs) and _is_number(ours) for theirs, ours in value.items())
    )


# Fields that a `meta` may have: the test of a value, and that in words. Others are as they are.
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (
        lambda value: type(value) is int and 1 <= value <= _MAX_VERSION,
        "a whole number from 1",
    ),
    "queryinst_version": (_is_text, "a short text"),
    "config": (lambda value: _is_text(value, _LONG_TEXT), "a yaml text"),
    "thing_classes": (are_names, f"a list of at most {_MAX_CLASSES} names"),
    "dataset_id_map": (_is_id_map, f"a dict of at most {_MAX_CLASSES} numbers to numbers"),
    "input_format": (lambda value: _is_text(value) and value in _FORMATS, f"one of {_FORMATS}"),
    "kind": (
        lambda value: _is_text(value) and value in (_FULL, _INFERENCE_ONLY),
        f"{_FULL!r} or {_INFERENCE_ONLY!r}",
    ),
    **{
        field: (_is_text, "a short text")
        for field in ("source", "digest", "licence", "attribution", "training_data")
    },
}


def build_meta(cfg: CfgNode, dataset_name: str | None) -> dict[str, Any]:
    """The `meta` of a checkpoint from this configuration.

    Args:
        dataset_name: the data set whose class names and ids the model learns; None or "" for none.
            Data sets that take their classes from their JSON must have been loaded before.

    Returns:
        format_version, queryinst_version, config (yaml text), thing_classes (names; empty if
        unknown), dataset_id_map ({id in the data set: class index}), input_format, kind ("slim" by
        MODEL.QUERYINST.INFERENCE_ONLY, else "train").
    """
    metadata = MetadataCatalog.get(dataset_name) if dataset_name else None
    id_map = getattr(metadata, "thing_dataset_id_to_contiguous_id", None) or {}
    inference_only = cfg.MODEL.QUERYINST.INFERENCE_ONLY and cfg.MODEL.MASK_ON
    return {
        "format_version": FORMAT_VERSION,
        "queryinst_version": __version__,
        "config": cfg.dump(),
        "thing_classes": [str(name) for name in getattr(metadata, "thing_classes", None) or ()],
        "dataset_id_map": {int(theirs): int(ours) for theirs, ours in id_map.items()},
        "input_format": str(cfg.INPUT.FORMAT),
        "kind": _INFERENCE_ONLY if inference_only else _FULL,
    }


def as_inference_only(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The same `meta` for a file that holds only the last mask head."""
    return {**meta, "kind": _INFERENCE_ONLY}


def is_inference_only_meta(meta: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint with this `meta` holds only the last mask head."""
    return (meta or {}).get("kind") == _INFERENCE_ONLY


def class_names(meta: Any) -> list[str]:
    """The names in a file's `meta` by this project's, MMDetection 2.x's or 3.x's key, or []."""
    if not isinstance(meta, Mapping):
        return []
    dataset = meta.get("dataset_meta")
    candidates = [meta.get("thing_classes"), meta.get("CLASSES")]
    if isinstance(dataset, Mapping):
        candidates += [dataset.get("classes"), dataset.get("CLASSES")]
    for names in candidates:
        if names is not None and are_names(names) and names:
            return list(names)
    return []


def read_meta(path: str) -> dict[str, Any] | None:
    """The `meta` of a checkpoint file (path or URL); None if it has none.

    Raises:
        FileNotFoundError, ValueError: as `QueryInstCheckpointer.load` does for such a file.
    """
    return read_with_meta(path, f"MODEL.WEIGHTS {path}", with_tensors=False)[1]


def read_with_meta(
    path: str, label: str, *, with_tensors: bool = True
) -> tuple[Any, dict[str, Any] | None]:
    """What a checkpoint holds, and its `meta` if this project wrote it.

    Args:
        path: file or URL; may end in Detectron2's `?matching_heuristics=True`.
        label: how messages name the file.
        with_tensors: False reads only the rest.

    Raises:
        FileNotFoundError, ValueError, ...: the file cannot be read, or a later version of this
            project wrote it. One line.
    """
    local = fetch(_without_query(path, label), label)
    if "://" in path:  # which file in the cache to remove if it is damaged
        label = f"{label} ({local})"
    checkpoint = read_checkpoint(local, label, with_tensors=with_tensors)
    return checkpoint, checked_meta(checkpoint, label)


def _without_query(path: str, label: str) -> str:
    """Remove Detectron2's `?matching_heuristics=True`: here rules always match the names."""
    if "?" not in path or os.path.exists(path):
        return path
    parsed = urlparse(path)
    if unknown := set(parse_qs(parsed.query)) - {"matching_heuristics"}:
        raise ValueError(f"{label} has an unsupported query {sorted(unknown)[0]!r}")
    return parsed._replace(query="").geturl()


def checked_meta(checkpoint: Any, label: str) -> dict[str, Any] | None:
    """The `meta` in what a file holds, if this project wrote it.

    Raises:
        LaterFormatError: a later version of this project wrote it.
        ValueError: it is not a dict, or a field has another type or is out of bounds. One line
            that names the field.
    """
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    if meta is None or isinstance(meta, (Tensor, np.ndarray)):  # a parameter of that name
        return None
    if not isinstance(meta, dict):
        raise ValueError(f"{label}: its meta is {_outline(meta)}; it must be a dict")
    if "format_version" not in meta:
        return None
    _check_field("format_version", meta["format_version"], label)
    if meta["format_version"] > FORMAT_VERSION:
        _check_field("queryinst_version", meta.get("queryinst_version", "anew"), label)
        version = meta.get("queryinst_version", "anew")[:80]
        raise LaterFormatError(
            f"{label} has format version {meta['format_version']}, this queryinst reads up to"
            f" {FORMAT_VERSION}; install queryinst {' '.join(version.split())} or later"
        )
    for field in _FIELDS.keys() & meta.keys():
        _check_field(field, meta[field], label)
    if problem := _problem_of_config(meta.get("config", "")):
        raise ValueError(f"{label}: its meta['config']{problem}")
    return meta


def _check_field(field: str, value: Any, label: str) -> None:
    is_valid, needed = _FIELDS[field]
    if not is_valid(value):
        raise ValueError(f"{label}: its meta[{field!r}] is {_outline(value)}; it must be {needed}")


@lru_cache(maxsize=8)
def _problem_of_config(text: str) -> str:
    """Why a configuration is no yaml mapping, or ""; parsed once for the readers of one file."""
    try:
        content = load_yaml(text, "") if text else {}
    except ValueError as error:
        return str(error)
    return "" if isinstance(content, dict) else " is not a yaml mapping of keys to values"


def _outline(value: Any) -> str:
    """A value, or its type where that may be long."""
    if value is None or isinstance(value, (bool, float)) or _is_number(value):
        return repr(value)
    return repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"


def without_numpy_scalars(value: Any) -> Any:
    """The same containers with numpy's scalars as Python's, which every loader supports."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {without_numpy_scalars(k): without_numpy_scalars(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_numpy_scalars(item) for item in value)
    return value


def require_plain(value: Any, name: str = "meta") -> None:
    """Raise a TypeError unless `value` is of None, bool, int, float, str, list, tuple, dict."""
    if type(value) is dict:
        for key, item in value.items():
            require_plain(key, f"a key of {name}")
            require_plain(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for item in value:
            require_plain(item, f"an item of {name}")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{name} is a {type(value).__name__}; a checkpoint's meta holds plain types only"
        )
