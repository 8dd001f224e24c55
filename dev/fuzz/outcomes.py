"""What an input can lead to, and which errors count as one clear line."""

import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

from queryinst.engine.errors import describe_error, is_explained

RIGHT = "accepted and right"
WARNED = "accepted with a warning"
CLEAR = "one clear line"
BARE = "bare exception"
WRONG = "accepted, but wrong"
FATAL = "crash, hang or memory"
OUTCOMES = (RIGHT, WARNED, CLEAR, BARE, WRONG, FATAL)
FAILURES = (BARE, WRONG, FATAL)  # of which there must be none

_MAX_LINE = 400  # characters, without the folder that the trials run in
_EXPECTED = (ValueError, KeyError, OSError, ImportError, FloatingPointError)
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|Insufficient memory|bad_alloc|Unable to allocate", re.IGNORECASE
)
# A key with its sections, or one of those that have none.
_KEY = re.compile(r"\b[A-Z][A-Z0-9]*(_[A-Z0-9]+)*(\.[A-Z0-9_]+)+\b|\b[A-Z]+_[A-Z0-9_]+\b|\bSEED\b")


class WrongResultError(Exception):
    """An input was accepted, and what came of it is not what the file says."""


@dataclass(frozen=True)
class Verdict:
    """What one input led to."""

    outcome: str
    line: str = ""  # the message, or what is wrong
    place: str = ""  # where a bare exception was raised: file:line of this project, and innermost


def judge(error: BaseException, folders: Iterable[str], names: Iterable[str]) -> Verdict:
    """The verdict on an error.

    Args:
        folders: what the paths of the trial begin with; they do not count.
        names: the message of a clear line has one of these, or a key.
    """
    line = describe_error(error)
    for folder in folders:
        line = line.replace(f"{folder}/", "")
    if isinstance(error, WrongResultError):
        return Verdict(WRONG, str(error)[:_MAX_LINE])
    if isinstance(error, MemoryError):
        return Verdict(FATAL, line[:_MAX_LINE], _place(error))
    text = str(error)
    if not isinstance(error, _EXPECTED) or not is_explained(error):
        fault = ""  # the class's name, which `line` begins with
    elif "\n" in text.strip() or "Traceback" in text:
        fault = "[several lines] "
    elif len(line) > _MAX_LINE:
        fault = f"[{len(line)} characters] "
    elif not _KEY.search(line) and not any(name in line for name in names):
        fault = "[names neither file nor key] "
    else:
        return Verdict(CLEAR, line)
    if _NO_MEMORY.search(line):  # which torch and OpenCV say in errors of other classes
        return Verdict(FATAL, line[:_MAX_LINE], _place(error))
    name = type(error).__name__
    line = line if line.startswith(name) else f"{name}: {line}"
    return Verdict(BARE, f"{fault}{line}"[:_MAX_LINE], _place(error))


def _place(error: BaseException) -> str:
    """The last frame in this project, and the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/queryinst/" in frame.filename]
    places = [
        f"{frame.filename.split('/')[-1]}:{frame.lineno}" for frame in (*own[-1:], frames[-1])
    ]
    return " < ".join(dict.fromkeys(places))


def markdown_table(counts: dict[str, dict[str, int]], seconds: dict[str, float]) -> str:
    """One row for each kind of input."""
    headers = ["input", "inputs", *OUTCOMES, "seconds"]
    rows = [
        [kind, str(sum(found.values())), *(str(found.get(o, 0)) for o in OUTCOMES)]
        + [f"{seconds[kind]:.0f}"]
        for kind, found in counts.items()
    ]
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
