"""What is wrong with the data of a training, before anything is derived from it."""

from collections.abc import Sequence
from typing import NamedTuple

from ..config_files import merge_opts
from ..data.problem_kinds import MORE_THAN_DETECTIONS, MORE_THAN_QUERIES
from ..model_zoo import get_config
from ..own_data.check import DEFAULT_CONFIG, check_data
from ..own_data.check_command import Bars
from ..own_data.check_text import problems_text
from ..own_data.equal_images import SHARED
from .parts import Parts

# Kinds that the recipe solves by the key's value, unless that is the user's.
_DERIVED = {
    "MODEL.QUERYINST.NUM_QUERIES": MORE_THAN_QUERIES,
    "TEST.DETECTIONS_PER_IMAGE": MORE_THAN_DETECTIONS,
}
_KEYS = ("INPUT.MAX_PIXELS", *_DERIVED)  # that the check goes by


class Checked(NamedTuple):
    """What a check found.

    Attributes:
        text: all problems by kind, but those that the recipe solves; "" for none.
        num_errors: that a training would end with. Images that are in both parts do not count: it
            would train, to figures that are too good, which the text says.
    """

    text: str
    num_errors: int


def check_parts(parts: Parts, opts: Sequence[str] = ()) -> Checked:
    """Read all annotations, and the headers of all images.

    Args:
        opts: of the training; those of `_KEYS` count.

    Raises:
        KeyError, ValueError: `opts` are no keys and values. One line.
    """
    cfg = get_config(DEFAULT_CONFIG)
    given = {key: value for key, value in zip(opts[::2], opts[1::2]) if key in _KEYS}
    merge_opts(cfg, [x for pair in given.items() for x in pair])
    splits = [parts.train._replace(name="train")]
    if parts.val:
        splits.append(parts.val._replace(name="val"))
    with Bars(hidden=False) as bars:
        result = check_data(splits, fast=True, cfg=cfg, progress=bars)
    shared = sum(x.count for x in result.findings.groups("error") if x.kind.name == SHARED.name)
    solved = [kind for key, kind in _DERIVED.items() if key not in given]
    text = problems_text(result, solved)
    if shared:
        text += "images that are in both parts do not keep it from training\n"
    return Checked(text, result.num_errors - shared)
