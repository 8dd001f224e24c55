"""Published models measured on this machine, beside what was published of them."""

import argparse
import datetime
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import detectron2
import torch
import torchvision

from .._version import __version__
from ..devices import processor_name, resolve_device
from ..model_zoo.metadata import Measured, ModelEntry, load_models, models_yaml
from ..model_zoo.model_zoo import config_file_of
from .setup import setup_cfg
from .train_net import main

_LOGGERS = ("queryinst", "detectron2", "fvcore")
# Keys that the tool sets itself; keys that change no figure, or are recorded as the hardware.
_TAKEN = {"MODEL.WEIGHTS", "OUTPUT_DIR"}
_NEUTRAL = {"MODEL.DEVICE", "DATALOADER.NUM_WORKERS"}


def choose_models(names: Sequence[str] = ()) -> list[ModelEntry]:
    """The models of these names; without any, all whose files have a stable address.

    Args:
        names: as in models.yaml, or configurations' names with ".yaml" or without.

    Raises:
        ValueError: there is no such model; the message lists all.
    """
    entries = load_models()
    chosen = [entry for entry in entries if entry.url] if not names else []
    for name in names:
        found = [e for e in entries if name in (e.name, e.config, e.config.removesuffix(".yaml"))]
        if not found:
            known = ", ".join(entry.name for entry in entries)
            raise ValueError(f"--models {name} is none of {models_yaml()}; there are: {known}")
        chosen += found
    return chosen


def measure(
    entry: ModelEntry, output_dir: str, opts: Sequence[str] = (), *, weights: str | None = None
) -> Measured:
    """Evaluate a published model on its configuration's data set.

    Args:
        output_dir: log, results.json and predictions go to a folder of the model's name in it.
        opts: key, value, key, value, ... which win over the configuration.
        weights: the published file, where it has no stable address.

    Raises:
        ValueError, KeyError, OSError: one line; weights, data or options that don't work.
    """
    if taken := _TAKEN & set(opts[::2]):
        raise ValueError(f"{sorted(taken)[0]} is set by evaluate_zoo.py itself; leave it out")
    weights = weights or entry.checkpoint_url
    if weights is None:
        raise ValueError(
            f"the file of {entry.name} has no stable address; get it from {entry.attribution} and"
            " name it with --weights"
        )
    folder = os.path.join(output_dir, entry.name)
    words = [*opts, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", folder]
    config_file = config_file_of(entry)
    cfg = setup_cfg(config_file, words)
    if len(cfg.DATASETS.TEST) != 1 or not cfg.MODEL.MASK_ON:
        raise ValueError(
            f"box and mask AP on one data set are measured; MODEL.MASK_ON is {cfg.MODEL.MASK_ON},"
            f" DATASETS.TEST {cfg.DATASETS.TEST}"
        )
    with _own_handlers():
        results = main(argparse.Namespace(config_file=config_file, opts=words, eval_only=True))
    found = results[cfg.DATASETS.TEST[0]]
    return Measured(
        box_ap=_rounded(found["bbox"]["AP"]),
        mask_ap=_rounded(found["segm"]["AP"]),
        date=datetime.date.today().isoformat(),
        data_set=cfg.DATASETS.TEST[0],
        options=_options(opts),
        versions=f"queryinst {__version__}, detectron2 {detectron2.__version__},"
        f" torch {torch.__version__}, torchvision {torchvision.__version__}",
        hardware=_hardware(resolve_device(cfg, training=False)),
    )


def check_recordable(entry: ModelEntry, opts: Sequence[str]) -> None:
    """Raise a ValueError if what is to be measured would not stand beside the published figures."""
    own = setup_cfg(config_file_of(entry)).DATASETS.TEST
    asked = setup_cfg(config_file_of(entry), opts).DATASETS.TEST
    if own != asked:
        raise ValueError(
            f"--record: {entry.name} was published with figures on {', '.join(own)}, not on"
            f" {', '.join(asked)}; leave DATASETS.TEST or --record out"
        )


def comparison(entry: ModelEntry, measured: Measured) -> str:
    """Lines for a person: published and measured figures, with what they were measured on."""
    published = entry.published
    lines = [
        f"{entry.name} on {measured.data_set}",
        f"  published by {published.by}: box AP {published.box_ap:.1f},"
        f" mask AP {published.mask_ap:.1f} ({published.source})",
        f"  measured here: box AP {measured.box_ap:.1f}, mask AP {measured.mask_ap:.1f}"
        f" ({measured.date}; {measured.versions}; {measured.hardware})",
    ]
    if measured.options:
        lines.append(f"  with {measured.options}")
    return "\n".join(lines)


def _rounded(ap: float) -> float:
    if not math.isfinite(ap):
        raise ValueError("there is no AP: the data set has no objects; look at DATASETS.TEST")
    return round(float(ap), 2)


def _options(opts: Sequence[str]) -> str:
    """What of the KEY VALUE words may change a figure."""
    pairs = zip(opts[::2], opts[1::2])
    return " ".join(f"{key} {value}" for key, value in pairs if key not in _NEUTRAL)


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Take away the log handlers that a run adds, so that the next one's lines come once."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.handlers[:] for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before):
            logger.handlers[:] = handlers
