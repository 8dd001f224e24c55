"""What a job of the command is, and how its arguments are read. Standard library alone."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from . import values


class Job(NamedTuple):
    """One of the first words after `queryinst`, or after such a word that has jobs of its own."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    jobs: Mapping[str, "Job"] = MappingProxyType({})


class _Parser(argparse.ArgumentParser):
    """Whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


def list_jobs(jobs: Mapping[str, Job], command: str, title: str) -> str:
    """What a command prints that is followed by a job: all of them, with an example each."""
    lines = [f"usage: {command} JOB ...", "", title, ""]
    for name, job in jobs.items():
        lines += [f"  {name:8} {job.summary}", f"  {'':8}   {job.example}"]
    return "\n".join([*lines, "", f"{command} JOB --help has the options of a job."])


def parse_job(about: Job, command: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a job; where it has jobs of its own, the chosen one's name is in `job`.

    Raises:
        SystemExit: status 0 after --help and after a list of jobs, 2 for wrong arguments, which
            are one line on stderr.
    """
    parser = _Parser(
        prog=command,
        description=f"{about.summary[0].upper()}{about.summary[1:]}.",
        epilog=f"for example: {about.example}",
        allow_abbrev=False,
    )
    if about.jobs:
        if not words or words[0] in ("-h", "--help"):
            print(list_jobs(about.jobs, command, parser.description or ""), flush=True)
            parser.exit()
        if words[0] not in about.jobs:
            parser.error(f"no job {words[0]!r}; the jobs are {', '.join(about.jobs)}")
        args = parse_job(about.jobs[words[0]], f"{command} {words[0]}", words[1:])
        args.job = words[0]
        return args
    about.add_arguments(parser)
    args = parser.parse_intermixed_args(values.end_lists(words))
    if len(getattr(args, "opts", ())) % 2:
        parser.error("--opts needs pairs of KEY VALUE")
    if getattr(args, "overlap", None) is not None and not args.slice:
        parser.error("--overlap is of tiles: add --slice N")
    return args


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """Of a job without arguments."""


def add_opts(parser: argparse.ArgumentParser, over: str = "the model's") -> None:
    parser.add_argument(
        "--opts",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY VALUE",
        help=f"configuration keys, which win over {over}",
    )


def add_output(parser: argparse.ArgumentParser, default: str, what: str = "") -> None:
    parser.add_argument(
        "--output",
        default=default,
        metavar="DIR",
        help=f"folder to write {what}to (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="D", help="cuda, cuda:1, cpu (default: a GPU if there is one)"
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
