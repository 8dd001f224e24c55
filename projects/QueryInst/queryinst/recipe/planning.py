"""A training of one's own data, from DATA and options to what `train_net.py` takes."""

import re
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from ..data.registration import name_dataset
from ..engine.checks import check_best_metric
from ..json_files import read_json
from ..wording import counted
from .configuring import configure, wishes_of
from .deriving import derive
from .holding_out import Held, held_out_before, hold_out
from .parts import Parts
from .sizes import small_objects
from .starting import start_from
from .statistics import DataStatistics, statistics_of
from .structures import Derived, Machine, Request, Start

Triple = tuple[str, str, str]  # name, JSON file, image folder


@dataclass(frozen=True)
class Plan:
    """A training that has not begun.

    Attributes:
        triples: the data sets to train and to evaluate on, as --dataset takes them.
        notes: lines about the data.
        held: what is to be written of parts that were split off; None if there were two.
    """

    cfg: CfgNode
    derived: list[Derived]
    start: Start
    train: DataStatistics
    val: DataStatistics
    triples: tuple[Triple, ...]
    notes: tuple[str, ...]
    held: Held | None


def check_request(request: Request) -> None:
    """Refuse options before the data are read, which may take minutes.

    Raises:
        ValueError, KeyError, OSError: there is no such model, or keys or values are invalid.
    """
    base, _ = start_from(request.model, 0, request.opts)
    wishes_of(base, request)


def make_plan(parts: Parts, machine: Machine, request: Request, *, data: str, output: str) -> Plan:
    """Hold images out if need be, and derive the configuration.

    Args:
        parts: checked.
        data: DATA, which names the data sets.

    Raises:
        ValueError, KeyError, OSError: no objects, or options that are invalid. One line.
    """
    held, notes = None, parts.notes
    content = read_json(parts.train.json_file, dict)
    if parts.val is None:
        held = hold_out(content, parts.train, output)
        contents, splits = (held.train, held.val), (held.train_split, held.val_split)
        notes += held.notes
    else:
        contents = content, read_json(parts.val.json_file, dict)
        splits = parts.train, parts.val
    train, val = map(statistics_of, contents)
    _require_objects(train, val, *(split.json_file for split in splits))
    base, start = start_from(request.model, max(train.most_objects, val.most_objects), request.opts)
    derived = derive(train, val, start, machine, wishes_of(base, request))
    own = _name_of(data)
    triples = tuple(
        name_dataset(f"{own}_{role}", split.json_file, split.image_root)
        for role, split in zip(("train", "val"), splits)
    )
    cfg = configure(
        base,
        derived,
        request.opts,
        device=machine.device,
        output=output,
        train=triples[0][0],
        val=triples[1][0],
    )
    check_best_metric(cfg, train.class_names)
    sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    notes = (*notes, *_only_held_out(train, val), *small_objects(train, val, *sides))
    return Plan(cfg, derived, start, train, val, triples, notes, held)


def _name_of(data: str) -> str:
    """Of the folder; of JSON:IMAGE_FOLDER the folder that the JSON, or its "annotations", is in."""
    folder = Path(data).absolute()
    if not folder.is_dir():
        folder = Path(data.rpartition(":")[0] or data).absolute().parent
        folder = folder.parent if folder.name == "annotations" else folder
    return re.sub(r"\W+", "_", folder.name) or "data"


def _require_objects(
    train: DataStatistics, val: DataStatistics, train_json: str, val_json: str
) -> None:
    if not train.num_objects:
        raise ValueError(f"{train_json} has no objects to learn (crowds do not count)")
    if not val.num_objects:
        raise ValueError(
            f"{val_json} has no objects, so nothing could be measured; name other images with"
            " --val, or only the part to train on as JSON:IMAGE_FOLDER, of which some are held out"
        )


def _only_held_out(train: DataStatistics, val: DataStatistics) -> tuple[str, ...]:
    """A note on classes of which no object is left to train on; of those without any the check has
    spoken."""
    counts = zip(train.class_names, train.images_per_class, val.images_per_class)
    missing = [name for name, here, there in counts if there and not here]
    if not missing:
        return ()
    names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    what = counted(len(missing), "class has", "classes have")
    return (f"{what} objects among the images held out alone: {names}",)


def triples_of(parts: Parts, cfg: CfgNode, output: str) -> tuple[Triple, Triple]:
    """The data sets of a training that goes on, by the names that its configuration has."""
    train, val = parts.train, parts.val
    if val is None:
        train, val = held_out_before(train, output)
    names = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    return (
        (names[0], train.json_file, train.image_root),
        (names[1], val.json_file, val.image_root),
    )
