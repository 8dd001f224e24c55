"""Converts a checkpoint: read, checked against its model, described, written, read off again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from ..checkpoint.files import check_suffix, sha256_of, write_checkpoint
from ..checkpoint.loading import plan_load
from ..checkpoint.meta import require_plain
from ..checkpoint.mmdet import to_mmdet_state_dict
from ..checkpoint.slim import is_slim, to_slim
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
        notes: what was folded, left out or is not known, one line each.
        coverage: how the source was checked, in words.
        meta: what the target says of itself.
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
    source: str,
    target: str,
    *,
    slim: bool = False,
    allow_pickle: bool = False,
    to: str = "queryinst",
    config_file: str = "",
) -> Conversion:
    """Write a checkpoint of any layout that the loader knows in another layout or file type.

    Args:
        source: path or URL.
        target: a path that ends in .pth or .safetensors; another file than the source.
        slim: leave out the mask heads that inference never runs.
        allow_pickle: admit any Python object in the source, and so execute what the file holds.
        to: whose names the target has, of `LAYOUTS`.
        config_file: the model's configuration; "" for the source's own, or by models.yaml.

    Raises:
        ValueError, KeyError, OSError: one line; the source is missing, damaged, or does not fill
            the configuration's model, the target can't be written, or the two are one file.
    """
    _check_request(target, slim, to)
    local = local_file(source)
    _check_apart(source, local, target)
    found = read_source(source, local, allow_pickle=allow_pickle)
    known = find_model(found, config_file)
    state, coverage = _cover(found, known.cfg)
    if slim:
        state = _slimmed(state, source)
    elif to == "mmdet" and is_slim(state):
        raise ValueError(f"{source} is slim, and MMDetection's models have all mask heads")
    meta, notes = describe(found, state, known)
    require_plain(meta)
    written = to_mmdet_state_dict(state) if to == "mmdet" else state
    write_checkpoint(target, _checkpoint(written, meta, to))
    return Conversion(
        layout=found.layout,
        source_digest=found.digest,
        target_digest=sha256_of(target),
        groups=count_groups(state),
        kinds=list_kinds(written),
        notes=[*found.notes, *notes],
        coverage=coverage,
        meta=meta,
    )


def _check_request(target: str, slim: bool, to: str) -> None:
    check_suffix(target)
    if "://" in target:
        raise ValueError(f"{target} is a URL; name a local file to write to")
    if to not in LAYOUTS:
        raise ValueError(f"--to {to!r} must be one of {', '.join(LAYOUTS)}")
    if slim and to == "mmdet":
        raise ValueError(
            "--slim is for this project alone: MMDetection's models have all mask heads"
        )


def _check_apart(source: str, local: str, target: str) -> None:
    if os.path.isdir(target):
        raise IsADirectoryError(f"{target} is a folder; name the file to write to")
    if os.path.exists(target) and os.path.samefile(local, target):
        raise ValueError(f"{target} is the same file as {source}, which is never overwritten")


def _cover(found: Source, cfg: CfgNode | None) -> tuple[dict[str, Tensor], str]:
    """What of the file goes into the model, all of which must be filled; and that in words."""
    if cfg is None:
        return found.state, "not checked against a model, as no configuration is known"
    model_state = _model_state(cfg, is_slim(found.state))
    plan = plan_load(model_state, found.state, shown=found.path, partial=False, complete=True)
    state = plan.whole_state(model_state)
    return state, f"fills all {len(state)} tensors of the configuration's model"


def _model_state(cfg: CfgNode, slim: bool) -> Mapping[str, Tensor]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.INFERENCE_ONLY = slim
    return build_on_meta(cfg).state_dict()


def _slimmed(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    try:
        return to_slim(state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _checkpoint(state: dict[str, Tensor], meta: dict[str, Any], to: str) -> dict[str, Any]:
    if to == "mmdet":
        return {"meta": {**meta, "CLASSES": meta["thing_classes"]}, "state_dict": state}
    return {"model": state, "meta": meta}
