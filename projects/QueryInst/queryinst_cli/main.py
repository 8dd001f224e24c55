"""From the words of a command line to a job and its exit status."""

import importlib
import os
import sys
from collections.abc import Sequence

from .arguments import JOBS, overview, parse

# With messages of their own. All else is a mistake of this project, and has a traceback.
_EXPLAINED = (ValueError, OSError, KeyError, ImportError, RuntimeError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job; an error is one line on stderr.

    The job's own module, and so torch, is imported when its arguments are known to be right.

    Returns:
        The exit status: 0; 1 if the job failed, be it for one image of many; 130 if it was
        interrupted.

    Raises:
        SystemExit: status 0 after --help, 2 for wrong arguments.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except BrokenPipeError:  # of `queryinst ... | head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(overview(), flush=True)
        return 0
    name = words[0]
    if name not in JOBS:
        print(f"queryinst: error: no job {name!r}; the jobs are {', '.join(JOBS)}", file=sys.stderr)
        return 2
    args = parse(name, words[1:])
    command = " ".join(["queryinst", name, *filter(None, [getattr(args, "job", "")])])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files can be anything
    try:
        importlib.import_module("queryinst")  # before Detectron2, which it silences on import
        return importlib.import_module(f"{__package__}.{name}").run(args)
    except BrokenPipeError:
        raise
    except _EXPLAINED as error:
        print(f"{command}: error: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130


def _line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__
