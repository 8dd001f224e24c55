"""The model that a training starts from: published weights, a checkpoint, or random weights."""

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode

from .. import model_zoo
from ..config_files import merge_keys, merge_opts
from ..engine.predictor import cfg_from_checkpoint
from ..engine.setup import setup_cfg
from ..model_zoo.model_zoo import config_of
from ..predict.exported import is_exported
from ..predict.loading import find_weights
from ..yaml_files import is_remote
from .queries import MANY_OBJECTS
from .structures import SMALL_WIDTH, Start, StartKind

NONE = "none"  # --model of random weights
SMALL_CONFIG = "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"
USUAL, MANY = "R_50_FPN_3x", "R_50_FPN_3x_300q"
# What a checkpoint's configuration says of its model and not of its data. The rest is derived.
_OF_INPUT = ("FORMAT", "MASK_FORMAT", "RESIZE_WITH", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "MAX_PIXELS")
_OF_SOLVER = (
    *("OPTIMIZER", "BASE_LR", "IMS_PER_BATCH", "BACKBONE_MULTIPLIER", "BIAS_LR_FACTOR"),
    *("MOMENTUM", "NESTEROV", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS"),
    "CLIP_GRADIENTS",
)
SMALL_RATE, SMALL_BATCH = 0.001, 4  # what suits small models from trained weights at most


def start_from(
    model: str | None, most_objects: int, opts: Sequence[str] = ()
) -> tuple[CfgNode, Start]:
    """The configuration to derive keys on top of, not frozen, and what the recipe knows of it.

    Nothing is downloaded, but for a FILE that is an address.

    Args:
        model: a name of the zoo, a file, or "none"; None for a published model that is chosen by
            `most_objects`, of one image.
        opts: key, value, ... which win: other keys are to fit the model that they make.

    Raises:
        ValueError, OSError, KeyError: no such model, or one that cannot be trained, or `opts` are
            no keys and values. One line.
    """
    if model == NONE:
        cfg = model_zoo.get_config(SMALL_CONFIG)
        return cfg, _start(cfg, "none", "", opts)
    name = model or (MANY if most_objects > MANY_OBJECTS else USUAL)
    weights = find_weights(name)
    if is_exported(weights):
        raise ValueError(
            f"{name} is an exported model, which cannot be trained; name the checkpoint that it was"
            " made of"
        )
    for entry in model_zoo.load_models():
        if weights in (entry.checkpoint_url, entry.alias):
            cfg = config_of(entry)
            cfg.MODEL.WEIGHTS = weights
            return cfg, _start(cfg, "zoo", name, opts)
    path = weights if is_remote(weights) else os.path.abspath(weights)
    cfg = _cfg_of_file(path, name)
    return cfg, _start(cfg, "file", name, opts)


def _cfg_of_file(path: str, name: str) -> CfgNode:
    loader = logging.getLogger("queryinst.engine.predictor")
    level = loader.level
    loader.setLevel(logging.WARNING)  # keys of other versions do not matter here
    try:
        found = cfg_from_checkpoint(path)
    finally:
        loader.setLevel(level)
    if found.MODEL.QUERYINST.INFERENCE_ONLY and found.MODEL.MASK_ON:
        raise ValueError(
            f"{name} is for inference only: it has the last mask head alone, and training needs"
            " those of all stages; start from a full checkpoint"
        )
    cfg = setup_cfg("Base-QueryInst.yaml").clone()
    cfg.defrost()
    kept = {
        "MODEL": dict(found.MODEL),
        "INPUT": {key: found.INPUT[key] for key in _OF_INPUT},
        "SOLVER": {key: found.SOLVER[key] for key in _OF_SOLVER},
    }
    merge_keys(cfg, kept, name)
    cfg.MODEL.WEIGHTS = path
    return cfg


def _start(base: CfgNode, kind: StartKind, name: str, opts: Sequence[str]) -> Start:
    cfg = base.clone()
    merge_opts(cfg, opts)
    short, queryinst = cfg.INPUT.MIN_SIZE_TEST or 800, cfg.MODEL.QUERYINST
    rate, batch = base.SOLVER.BASE_LR, base.SOLVER.IMS_PER_BATCH
    if kind == "file" and queryinst.EMBED_DIM <= SMALL_WIDTH:
        rate, batch = min(rate, SMALL_RATE), SMALL_BATCH
    return Start(
        kind=kind,
        name=name,
        short_side=short,
        long_side=max(cfg.INPUT.MAX_SIZE_TEST, short),
        num_queries=base.MODEL.QUERYINST.NUM_QUERIES,
        width=queryinst.EMBED_DIM,
        num_stages=queryinst.NUM_STAGES,
        base_lr=rate,
        batch=batch,
        denoising_groups=queryinst.DENOISING_GROUPS,
    )
