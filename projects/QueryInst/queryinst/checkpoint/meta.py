"""The `meta` of a checkpoint: plain types only, so that any loader can read it."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .._version import __version__
from .files import fetch, read_checkpoint

FORMAT_VERSION = 1
# Values of "kind". Inference-only checkpoints keep "slim": the file format is public.
_FULL, _INFERENCE_ONLY = "train", "slim"


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


def read_meta(path: str) -> dict[str, Any] | None:
    """The `meta` of a checkpoint file (path or URL); None if it has none.

    Raises:
        FileNotFoundError, ValueError: as `QueryInstCheckpointer.load` does for such a file.
    """
    return read_with_meta(path, f"MODEL.WEIGHTS {path}", mmap=True)[1]


def read_with_meta(
    path: str, label: str, *, mmap: bool = False
) -> tuple[Any, dict[str, Any] | None]:
    """What a checkpoint holds, and its `meta` if this project wrote it.

    Args:
        path: file or URL; may end in Detectron2's `?matching_heuristics=True`.
        label: how messages name the file.
        mmap: leave the tensors on the disk, if the format allows; to read only the rest.

    Raises:
        FileNotFoundError, ValueError, ...: the file cannot be read, or a later version of this
            project wrote it. One line.
    """
    checkpoint = read_checkpoint(fetch(_without_query(path, label), label), label, mmap=mmap)
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
        ValueError: a later version of this project wrote it.
    """
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, dict) or "format_version" not in meta:
        return None
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{label} has format version {meta['format_version']}, this queryinst reads up to"
            f" {FORMAT_VERSION}; install queryinst {meta.get('queryinst_version', 'anew')} or later"
        )
    return meta


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
