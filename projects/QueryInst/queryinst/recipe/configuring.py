"""From derived keys to the configuration of a run."""

import ast
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from ..config_files import merge_keys, merge_opts
from ..config_limits import check_limits
from ..engine.trackers import check_writers
from ..solver import check_solver
from .structures import Derived, Request, Wishes

# Keys that options of the command line set, and which.
_OF_OPTIONS = {
    "OUTPUT_DIR": "--output",
    "MODEL.WEIGHTS": "--model",
    "DATASETS.TRAIN": "DATA",
    "DATASETS.TEST": "--val",
    "MODEL.ROI_HEADS.NUM_CLASSES": "the categories of DATA",
}
_WISHES = {
    "SOLVER.MAX_ITER": "iterations",
    "SOLVER.IMS_PER_BATCH": "batch",
    "MODEL.QUERYINST.NUM_QUERIES": "queries",
    "TEST.EVAL_PERIOD": "eval_period",
}


def wishes_of(base: CfgNode, request: Request) -> Wishes:
    """What the options ask for; keys in `opts` count as well, so that others fit to them.

    Raises:
        KeyError, ValueError: `opts` are not keys and values, or have what another option sets.
        ImportError: a writer needs a package that is not installed.
    """
    opts = request.opts
    for key in opts[::2]:
        if key in _OF_OPTIONS:
            raise ValueError(f"--opts {key} is set by {_OF_OPTIONS[key]}; leave it out")
    cfg = base.clone()
    merge_opts(cfg, opts)
    check_limits(cfg)
    check_writers(cfg.WRITERS)
    wishes = Wishes(request.epochs, request.iterations, request.batch)
    given = {_WISHES[key]: get_key(cfg, key) for key in opts[::2] if key in _WISHES}
    return wishes._replace(**given)


def configure(
    base: CfgNode,
    derived: Sequence[Derived],
    opts: Sequence[str],
    *,
    device: str,
    output: str,
    train: str,
    val: str,
) -> CfgNode:
    """The configuration of the run, frozen.

    Args:
        opts: win over all but what follows.
        train, val: names of data sets.

    Raises:
        KeyError, ValueError: `opts` are invalid, or do not fit the rest. One line.
    """
    cfg = base.clone()
    cfg.defrost()
    merge_keys(cfg, _nested({x.key: x.value for x in derived}), "the recipe")
    merge_opts(cfg, opts)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = device, as_text(output)
    check_limits(cfg)
    check_solver(cfg)
    cfg.freeze()
    return cfg


def as_text(path: str) -> str:
    """The path in a form that a yaml value keeps: yacs would take "123" for a number."""
    try:
        ast.literal_eval(path)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return path
    return os.path.join(".", path)


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as "SOLVER.MAX_ITER"."""
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return nested
