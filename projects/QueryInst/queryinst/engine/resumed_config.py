"""A training that resumes with another configuration than that of its checkpoint."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.solver import LRMultiplier

from ..config import config_of_checkpoint

logger = logging.getLogger(__name__)

# Of these nothing is said: where a run writes, and SEED, of which `RunSeed` speaks.
_SILENT = ("OUTPUT_DIR", "VERSION", "SEED")
# Keys that divide parameters into the optimizer's groups, whose state a checkpoint has by place.
_GROUPING = (
    "SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "MODEL.BACKBONE.FREEZE_AT",
)


def compare_with_run(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, label: str
) -> None:
    """Log in one line each which keys changed, and whether the change takes effect.

    Args:
        before, now: `meta` of the checkpoint and of the run; nothing is said without either.
        label: names the checkpoint.

    Raises:
        ValueError: SOLVER.OPTIMIZER changed, whose state does not fit.
    """
    changed = changed_keys(before, now)
    if "SOLVER.OPTIMIZER" in changed:
        theirs, ours = changed["SOLVER.OPTIMIZER"]
        raise ValueError(
            f"{label} holds the state of SOLVER.OPTIMIZER {theirs}, with which {ours} cannot go on;"
            f" set SOLVER.OPTIMIZER {theirs}, or start anew from these weights: MODEL.WEIGHTS,"
            " another OUTPUT_DIR, and no --resume"
        )
    for key, (theirs, ours) in changed.items():
        if key == "MODEL.WEIGHTS":
            logger.warning(
                f"Resuming: {key} {ours!r} is not read, since the weights are those of {label}"
            )
        elif key not in _SILENT:
            logger.info(f"Resuming with {key} {ours!r}, which was {theirs!r}: it takes effect")


def changed_keys(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> dict[str, tuple[Any, Any]]:
    """The keys, with the value of before and of now, of which both configurations know."""
    texts = [(meta or {}).get("config") for meta in (before, now)]
    if not all(texts):
        return {}
    old, new = (dict(flat_keys(config_of_checkpoint(text))) for text in texts)
    return {key: (old[key], new[key]) for key in new if key in old and old[key] != new[key]}


def flat_keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys in full, such as "SOLVER.BASE_LR", and their values."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from flat_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextmanager
def keeping_rates(optimizer: torch.optim.Optimizer, scheduler: Any) -> Iterator[None]:
    """Load a checkpoint's state inside; rates, decay and schedule stay those of the configuration.

    They are the same bit by bit unless the configuration changed. A scheduler of another class than
    Detectron2's may compute its rates from the last ones, so that all is loaded then.

    Raises:
        ValueError: the configuration divides the parameters into other groups.
    """
    groups = [{k: v for k, v in x.items() if k != "params"} for x in optimizer.param_groups]
    base_lrs = getattr(scheduler, "base_lrs", None)
    try:
        yield
    except ValueError as error:
        if "group" not in str(error):
            raise
        raise ValueError(
            f"the optimizer has other groups of parameters, as {', '.join(_GROUPING)} make them"
        ) from error
    if not isinstance(scheduler, LRMultiplier):
        return
    scheduler.base_lrs = base_lrs
    if scheduler.last_epoch > scheduler._max_iter:
        return  # no step is left, and the schedule has no rate
    rates = scheduler.get_lr()
    for group, own, rate in zip(optimizer.param_groups, groups, rates, strict=True):
        group.update(own, lr=rate)
