"""The `meta` of a converted file: its configuration, its classes, and its origin."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from .._version import __version__
from ..checkpoint.fitting import num_classes_of
from ..checkpoint.inference_only import is_inference_only
from ..checkpoint.meta import FORMAT_VERSION, as_inference_only, build_meta, class_names
from ..config import config_of_checkpoint
from ..engine.predictor import cfg_from_text
from ..engine.setup import setup_cfg
from ..model_zoo.metadata import ModelEntry, load_models
from ..model_zoo.model_zoo import config_of
from ..yaml_files import load_yaml
from .source import Source

_PROVENANCE = ("source", "digest", "licence", "attribution", "training_data")


def is_ours(meta: Mapping[str, Any]) -> bool:
    """Whether this project wrote `meta`."""
    return "format_version" in meta


@dataclass(frozen=True)
class KnownModel:
    """What is known about the model beside its weights.

    Attributes:
        cfg: its configuration, or None.
        config_text: the same as yaml, or "".
        entry: its entry in models.yaml, or None.
    """

    cfg: CfgNode | None
    config_text: str
    entry: ModelEntry | None


def find_model(source: Source, config_file: str) -> KnownModel:
    """The configuration from --config-file, else from the file itself, else from models.yaml.

    Raises:
        ValueError, KeyError, OSError: --config-file or the file's `meta` has no valid one. One
            line.
    """
    entry = _find_entry(source)
    if config_file:
        cfg = setup_cfg(config_file)
    elif is_ours(source.meta) and source.meta.get("config"):
        text = source.meta["config"]
        cfg = cfg_from_text(text, source.path)
        config = config_of_checkpoint(text, source.path)
        has_old_keys = config != load_yaml(text, source.path)
        return KnownModel(cfg, CfgNode(config).dump() if has_old_keys else text, entry)
    elif entry:
        cfg = config_of(entry)
    else:
        return KnownModel(None, "", None)
    return KnownModel(cfg, cfg.dump(), entry)


def _find_entry(source: Source) -> ModelEntry | None:
    """Find it by the file's digest, or by the digest of the file that it was converted from."""
    digests = [source.digest, source.meta.get("digest")]
    for entry in load_models():
        prefix = entry.sha256_prefix
        if prefix and any(isinstance(d, str) and d.startswith(prefix) for d in digests):
            return entry
    return None


def describe(
    source: Source, state: Mapping[str, Any], known: KnownModel
) -> tuple[dict[str, Any], list[str]]:
    """The `meta` for a converted file, and notes for the user.

    Args:
        state: the weights of the file, by this project's names.
    """
    if known.cfg is None:
        meta, notes = _blank(), ["no configuration is known; name one with --config-file"]
        if is_ours(source.meta):
            meta["input_format"] = str(source.meta.get("input_format", meta["input_format"]))
    else:
        data_sets, notes = known.cfg.DATASETS.TRAIN, []
        meta = build_meta(known.cfg, data_sets[0] if data_sets else None)
        meta["config"] = known.config_text
    classes, more = _classes(source, num_classes_of(state), meta)
    meta |= classes
    if is_inference_only(state):
        meta = as_inference_only(meta)
    return {**meta, **_provenance(source, known.entry)}, notes + more


def _classes(
    source: Source, num_classes: int | None, configured: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """thing_classes and dataset_id_map: the file's own, else those of the configuration."""
    notes = []
    keys = ("thing_classes", "dataset_id_map")
    registered = {key: configured[key] for key in keys}
    names = class_names(source.meta)
    if names and len(names) != num_classes:
        notes.append(
            f"left out: its {len(names)} class names, because the model has {num_classes} classes"
        )
        names = []
    if names and is_ours(source.meta):
        return {key: source.meta.get(key, configured[key]) for key in keys}, notes
    if names and names != registered["thing_classes"]:
        return {"thing_classes": names, "dataset_id_map": {}}, notes
    if len(registered["thing_classes"]) != num_classes:
        return {"thing_classes": [], "dataset_id_map": {}}, notes
    return registered, notes


def _blank() -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "queryinst_version": __version__,
        "config": "",
        "thing_classes": [],
        "dataset_id_map": {},
        "input_format": "RGB",  # of MMDetection's and the authors' models, and of our defaults
        "kind": "train",
    }


def _provenance(source: Source, entry: ModelEntry | None) -> dict[str, str]:
    """The origin of the weights; what the file says itself wins."""
    is_url = "://" in source.path
    name = source.path if is_url else os.path.basename(source.path)
    known = {"source": name, "digest": source.digest}
    known |= {key: "" for key in _PROVENANCE if key not in known}
    if entry is not None:
        known |= {
            "licence": entry.licence,
            "attribution": entry.attribution,
            "training_data": entry.training_data,
        }
    meta = source.meta if is_ours(source.meta) else {}
    kept = {key: str(meta[key]) for key in _PROVENANCE if meta.get(key)}
    return {**known, **kept}
