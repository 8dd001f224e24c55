"""What `queryinst train` prints before it trains."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..wording import counted
from .configuring import get_key
from .statistics import DataStatistics
from .structures import Derived, Machine, Start


def data_line(train: DataStatistics, val: DataStatistics, *, is_same: bool) -> str:
    """Images, objects and classes in one line.

    Args:
        is_same: evaluation is on the images that are trained on.
    """
    objects = counted(train.num_objects, "object")
    held = f"{val.num_images:,} held out with {val.num_objects:,}"
    return (
        f"{counted(train.num_images, 'image')} to train on with {objects},"
        f" {'none held out' if is_same else held};"
        f" {counted(len(train.class_names), 'class', 'classes')}"
    )


def model_line(start: Start, machine: Machine) -> str:
    """What the training starts from, and what computes."""
    begins = {
        "zoo": f"{start.name}, as trained on COCO",
        "file": start.name,
        "none": "a small one with random weights",
    }[start.kind]
    return f"{begins}, on {machine.device}"


def keys_table(derived: Sequence[Derived], cfg: CfgNode, opts: Sequence[str]) -> str:
    """A row for each derived key: the value that the run has, and its reason."""
    rows = []
    for key, value, reason in derived:
        used = get_key(cfg, key)
        if key in opts[::2]:
            same = _plain(used) == _plain(value)
            reason = "--opts" if same else f"--opts, instead of {show(value)} ({reason})"
        rows.append((key, show(used), reason))
    further = [key for key in dict.fromkeys(opts[::2]) if key not in {x.key for x in derived}]
    rows += [(key, show(get_key(cfg, key)), "--opts") for key in further]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    second = min(second, 24)
    indent = " " * (first + second + 6)
    room = max(_width() - len(indent), 40)
    lines = []
    for key, value, reason in rows:
        head = f"  {key:{first}}  {value:{second}}  "
        wrapped = textwrap.wrap(reason, room) or [""]
        lines.append(head + wrapped[0])
        lines += [indent + line for line in wrapped[1:]]
    return "\n".join(lines)


def show(value: Any) -> str:
    """As it is written after --opts, but for quotes."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(show, value))}{',' * (len(value) == 1)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def same_run(config_file: str, triples: Sequence[Sequence[str]]) -> str:
    """The command that makes the same run without the recipe."""
    words = ["python", "train_net.py", "--config-file", config_file]
    lines = [shlex.join(words)]
    lines += [shlex.join(["--dataset", *triple]) for triple in triples]
    return " \\\n    ".join(lines)


def _width() -> int:
    """Characters of a line: the terminal's, and many in a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
