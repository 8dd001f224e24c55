"""What `queryinst train` leaves in an output folder, to tell the run and to go on with it."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..checkpoint.files import sha256_of
from ..checkpoint.resuming import has_checkpoint
from ..config_files import merge_opts
from ..engine.setup import setup_cfg
from ..json_files import read_json
from .configuring import as_text, get_key
from .structures import Derived, Request

RECIPE = "recipe.json"
CONFIG = "config.yaml"
# What is written before the training begins, and what the report replaces after it.
_WRITTEN_FIRST = ("annotations", "held-out", "train.json", "val.json", CONFIG)
_OF_REPORT = ("report.html", "pictures")
_VERSION = 1
# Options that may differ when a training goes on: they do not change what it learns.
_FREE = (
    *("MODEL.DEVICE", "MODEL.QUERYINST.SPEEDUPS", "DATALOADER.NUM_WORKERS", "VIS_PERIOD"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_MINUTES", "SOLVER.CHECKPOINT_KEEP"),
    *("DISTRIBUTED.TIMEOUT_MINUTES", "WRITERS"),
)


def digest_of(json_file: str) -> str:
    """The sha256 of a file; "" for none."""
    return sha256_of(json_file) if json_file else ""


def refuse_others_files(output: str, *, resume: bool) -> None:
    """Raise a ValueError if a training in this folder would replace what it did not write.

    That is a training that `resume` does not go on with, or a file of one's own, such as the data's
    train.json.
    """
    is_own = Path(output, RECIPE).exists()
    if is_own and resume:
        return
    if not has_checkpoint(output) and not Path(output, "results.json").exists():
        paths = [Path(output, name) for name in (*_WRITTEN_FIRST, *_OF_REPORT)]
        if found := [path for path in paths if os.path.lexists(path) and not is_own]:
            raise ValueError(
                f"{found[0]} is there, which this training would replace; name another --output"
            )
        return
    if resume:
        raise ValueError(
            f"{output} holds a training that queryinst train did not begin (there is no {RECIPE});"
            " go on with train_net.py --resume, or name another --output"
        )
    raise ValueError(
        f"{output} holds a training already; go on with it by --resume, or name another --output"
    )


@contextmanager
def removed_on_failure(output: str) -> Iterator[None]:
    """What is written before a training begins is gone again if it does not begin."""
    paths = [Path(output, name) for name in (*_WRITTEN_FIRST, RECIPE)]
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in new:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def write_recipe(cfg: CfgNode, request: Request, derived: Sequence[Derived]) -> None:
    """Write config.yaml, which is the run, and recipe.json, which says why."""
    Path(cfg.OUTPUT_DIR, CONFIG).write_text(cfg.dump(), encoding="utf-8")
    keys = [{"key": x.key, "value": get_key(cfg, x.key), "reason": x.reason} for x in derived]
    content = {"version": _VERSION, "request": asdict(request), "keys": keys}
    Path(cfg.OUTPUT_DIR, RECIPE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def resume(output: str, request: Request) -> tuple[CfgNode, list[str]]:
    """The configuration that a folder's training began with, and what changes: KEY, VALUE, ...

    Raises:
        ValueError: `request` is another than the training began with, where it says something; or
            the files are damaged. One line.
    """
    path = Path(output, RECIPE)
    content = read_json(str(path), dict)
    before = content.get("request")
    if content.get("version") != _VERSION or not isinstance(before, dict):
        raise ValueError(f"{path} is not of this version of queryinst; name another --output")
    cfg = setup_cfg(str(Path(output, CONFIG)))
    _require_same(before, request, output)
    _require_same_keys(cfg, request.opts, output)
    free = [x for pair in _pairs(request.opts) if pair[0] in _FREE for x in pair]
    return cfg, ["OUTPUT_DIR", as_text(output), *free]  # the folder may have been moved


def _require_same(before: Mapping[str, Any], request: Request, output: str) -> None:
    digests = before.get("digests")
    if digests != list(request.digests):
        role = "DATA" if not digests or digests[0] != request.digests[0] else "--val"
        raise ValueError(
            f"{role} has other annotations than those that the training in {output} began with;"
            " name another --output"
        )
    for name in ("model", "epochs", "iterations", "batch"):
        value, known = getattr(request, name), before.get(name)
        if value is not None and value != known:
            said = "was without it" if known is None else f"began with {known}"
            raise ValueError(
                f"--{name} {value}, but the training in {output} {said}; leave it out, or name"
                " another --output"
            )


def _require_same_keys(cfg: CfgNode, opts: Sequence[str], output: str) -> None:
    changed = cfg.clone()
    changed.defrost()
    merge_opts(changed, opts)
    for key, text in _pairs(opts):
        known = get_key(cfg, key)
        if key not in _FREE and get_key(changed, key) != known:
            raise ValueError(
                f"--opts {key} {text}, but the training in {output} has {known}; leave it out, or"
                " name another --output"
            )


def _pairs(opts: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(opts[::2], opts[1::2]))


def weights_to_predict(output: str) -> str:
    """The best checkpoint of a finished training by its own evaluation, else the final one."""
    best = os.path.join(output, "model_best.pth")
    return best if os.path.exists(best) else os.path.join(output, "model_final.pth")
