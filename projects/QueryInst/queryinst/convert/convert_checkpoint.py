"""Converts a checkpoint: reads it, matches it to its model, describes and writes it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from ..checkpoint.files import check_suffix, sha256_of, write_checkpoint
from ..checkpoint.inference_only import is_inference_only, to_inference_only
from ..checkpoint.loading import match_state_dict
from ..checkpoint.meta import require_plain
from ..checkpoint.mmdet import to_mmdet_state_dict
from ..model_zoo.conversion import build_on_meta
from .description import describe, find_model
from .keys import Group, Kind, count_groups, list_kinds
from .source import Source, local_file, read_source

LAYOUTS = ("queryinst", "mmdet")


@dataclass(frozen=True)
class Conversion:
    """What was read and what was written.

    Attributes:
        layout: whose names the source uses, in words.
        source_digest, target_digest: sha256 of both files, in hexadecimal.
        groups: the parts of the target.
        kinds: its tensors, in its own names.
        notes: what was folded, left out or is unknown, one line each.
        coverage: what the source was checked against, in words.
        meta: the target's.
    """

    layout: str
    source_digest: str
    target_digest: str
    groups: list[Group]
    kinds: list[Kind]
    notes: list[str]
    coverage: str
    meta: dict[str, Any]


def convert_checkpoint(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    inference_only: bool = False,
    allow_pickle: bool = False,
    to: str = "queryinst",
    config_file: str = "",
    ema: bool = False,
) -> Conversion:
    """Write a checkpoint of any layout that the loader supports in another layout or file type.

    Args:
        source: path or URL.
        target: a path that ends in .pth or .safetensors; another file than the source.
        inference_only: leave out the mask heads that inference never runs.
        allow_pickle: load any Python object in the source, and so execute what the file holds.
        to: whose names the target has, of `LAYOUTS`.
        config_file: the model's configuration; "" for the source's own, or that of models.yaml.
        ema: take the second set of weights that MMDetection's EMAHook leaves in its files.

    Raises:
        ValueError, KeyError, OSError: the source is missing, damaged, or does not fit the
            configuration's model; the target cannot be written; or both are the same file. One
            line.
    """
    source, target = os.fspath(source), os.fspath(target)
    _check_request(target, inference_only, to)
    local = local_file(source)
    _check_apart(source, local, target)
    original = read_source(source, local, allow_pickle=allow_pickle, ema=ema)
    known = find_model(original, config_file)
    state, coverage = _match(original, known.cfg)
    if inference_only:
        state = _without_training_only(state, source)
    elif to == "mmdet" and is_inference_only(state):
        raise ValueError(
            f"{source} is inference-only, and MMDetection's models have all mask heads"
        )
    meta, notes = describe(original, state, known)
    require_plain(meta)
    written = to_mmdet_state_dict(state) if to == "mmdet" else state
    write_checkpoint(target, _checkpoint(written, meta, to))
    return Conversion(
        layout=original.layout,
        source_digest=original.digest,
        target_digest=sha256_of(target),
        groups=count_groups(state),
        kinds=list_kinds(written),
        notes=[*original.notes, *notes],
        coverage=coverage,
        meta=meta,
    )


def _check_request(target: str, inference_only: bool, to: str) -> None:
    check_suffix(target)
    if "://" in target:
        raise ValueError(f"{target} is a URL; name a local file to write to")
    if to not in LAYOUTS:
        raise ValueError(f"--to {to!r} must be one of {', '.join(LAYOUTS)}")
    if inference_only and to == "mmdet":
        raise ValueError(
            "--inference-only is only for this project: MMDetection's models have all mask heads"
        )


def _check_apart(source: str, local: str, target: str) -> None:
    if os.path.isdir(target):
        raise IsADirectoryError(f"{target} is a folder; name the file to write to")
    if os.path.exists(target) and os.path.samefile(local, target):
        raise ValueError(f"{target} is the same file as {source}; name another file to write to")


def _match(source: Source, cfg: CfgNode | None) -> tuple[dict[str, Tensor], str]:
    """The file's tensors for the whole model of `cfg`, and that in words."""
    if cfg is None:
        return source.state, "not checked against a model, because no configuration is known"
    model_state = _model_state(cfg, is_inference_only(source.state))
    matched = match_state_dict(
        model_state, source.state, label=source.path, partial=False, complete=True
    )
    state = matched.whole_state(model_state)
    return state, f"matches all {len(state)} keys of the configuration's model"


def _model_state(cfg: CfgNode, inference_only: bool) -> Mapping[str, Tensor]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.INFERENCE_ONLY = inference_only
    return build_on_meta(cfg).state_dict()


def _without_training_only(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    try:
        return to_inference_only(state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _checkpoint(state: dict[str, Tensor], meta: dict[str, Any], to: str) -> dict[str, Any]:
    if to == "mmdet":
        return {"meta": {**meta, "CLASSES": meta["thing_classes"]}, "state_dict": state}
    return {"model": state, "meta": meta}
