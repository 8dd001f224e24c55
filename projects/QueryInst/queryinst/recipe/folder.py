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
from ..data.coco_folder import RUN_FILE, is_run
from ..engine.setup import setup_cfg
from ..json_files import read_json
from .configuring import as_text, get_key
from .structures import Derived, Request

RECIPE = RUN_FILE  # by which folders that look for data pass over the parts that are written here
CONFIG = "config.yaml"
# What is written before a training begins.
_WRITTEN_FIRST = ("annotations", "held-out", "train.json", "val.json", CONFIG, RECIPE)
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


def can_go_on(output: str) -> bool:
    """Whether a folder holds a training of `queryinst train` with a checkpoint."""
    return is_run(output) and has_checkpoint(output)


def refuse_others_files(output: str, *, resume: bool) -> None:
    """Raise a ValueError if a training in this folder would replace what is not its own.

    That is a training that `resume` does not go on with, or any file that was there before.
    """
    is_own = is_run(output)
    if has_checkpoint(output) or Path(output, "results.json").exists():
        if resume and is_own:
            return
        what = f"a training or evaluation that queryinst train did not begin (no {RECIPE}); name"
        if is_own:
            what = "a training already; go on with it by --resume, or name"
        raise ValueError(f"{output} holds {what} another --output")
    names = os.listdir(output) if os.path.isdir(output) and not is_own else []
    if found := sorted(name for name in names if not name.startswith(".")):
        raise ValueError(
            f"{output} is not empty: {found[0]} is there, which is no file of a training of"
            " queryinst train; name another --output"
        )


def refuse_data_inside(output: str, *data: str | None) -> None:
    """Raise a ValueError if DATA or --val are in the output folder, whose files may be replaced."""
    top = os.path.join(os.path.realpath(output), "")
    for name in filter(None, data):
        path = name if os.path.exists(name) else name.rpartition(":")[0]
        if os.path.join(os.path.realpath(path), "").startswith(top):
            raise ValueError(
                f"{name} is in {output}, where this training writes; name another --output"
            )


def refuse_training(output: str) -> None:
    """Raise a ValueError if an evaluation in this folder would replace files of a training."""
    if is_run(output) or has_checkpoint(output):
        raise ValueError(
            f"{output} holds a training, whose {CONFIG} and results.json would be replaced; name"
            " another --output"
        )


@contextmanager
def begun(output: str) -> Iterator[None]:
    """Mark a folder as a training's; what is written is gone again if it does not begin.

    What an earlier start left that did not come to a checkpoint is removed first.
    """
    _remove(output)
    Path(output, RECIPE).write_text(json.dumps({"version": _VERSION}), encoding="utf-8")
    try:
        yield
    except BaseException:
        _remove(output)
        raise


def _remove(output: str) -> None:
    for path in (Path(output, name) for name in _WRITTEN_FIRST):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
    if not (cfg.DATASETS.TRAIN and cfg.DATASETS.TEST):
        raise ValueError(
            f"{path.with_name(CONFIG)} is not that of the training any more, maybe an evaluation's:"
            " DATASETS.TRAIN or TEST is empty; name another --output"
        )
    _require_same(before, request, output)
    _require_same_keys(cfg, request.opts, output)
    free = [x for pair in _pairs(request.opts) if pair[0] in _FREE for x in pair]
    return cfg, ["OUTPUT_DIR", as_text(output), *free]  # the folder may have been moved


def _require_same(before: Mapping[str, Any], request: Request, output: str) -> None:
    digests = before.get("digests")
    if digests != list(request.digests):
        is_val = digests and digests[0] == request.digests[0]
        what = "the part to evaluate on has" if is_val else "DATA has"
        raise ValueError(
            f"{what} other annotations than those that the training in {output} began with; name"
            " the same DATA and --val, or another --output"
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
