"""Where a check writes: what cannot be, or what would be lost, is said before the long work."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..data.whole_files import whole_file
from .sources import Split

GENERATOR = "queryinst data check"  # by which a page is known to be one of these
_HEAD = 400  # bytes of a file by which it is known
_OWN = {"--json": '{"problems":', "--html": f'content="{GENERATOR}"'}


class OutputError(ValueError):
    """A wrong argument."""


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse what cannot be written, as far as that can be known before the data are read.

    Raises:
        OutputError: one line.
    """
    given = {"--json": args.json, "--html": args.html, "--fix": args.fix}
    paths = {option: path for option, path in given.items() if path is not None}
    for option, path in paths.items():
        if not path.strip() or "\0" in path:
            raise OutputError(f"{option} {path!r} is no path")
        _check_parents(option, path)
        if option != "--fix":
            _check_file(option, path, args.overwrite)
    known: dict[str, str] = {}
    for option, path in paths.items():
        other = known.setdefault(os.path.realpath(path), option)
        if other != option:
            raise OutputError(f"{other} and {option} are the same file {path}")


def fixed_files(args: argparse.Namespace, splits: Sequence[Split]) -> dict[str, str]:
    """The mended copy of each annotation file, by its path; empty without --fix.

    Raises:
        OutputError: one would replace what is there, or what is read. One line.
    """
    outputs = {"--json": args.json, "--html": args.html}
    targets = {}
    if args.fix is not None and len(splits) == 1:
        if os.path.isdir(args.fix):
            raise OutputError(f"--fix {args.fix} is a folder; name the file to write")
        targets = {splits[0].json_file: args.fix}
    elif args.fix is not None:
        if os.path.exists(args.fix) and not os.path.isdir(args.fix):
            raise OutputError(f"--fix {args.fix} is a file; name a folder for {len(splits)} files")
        targets = {x.json_file: os.path.join(args.fix, f"{x.name}.json") for x in splits}
    sources = {os.path.realpath(split.json_file): split.json_file for split in splits}
    for option, path in [*outputs.items(), *(("--fix", path) for path in targets.values())]:
        if path is not None and os.path.realpath(path) in sources:
            raise OutputError(f"{option} {path} is the annotation file that is read; name another")
    for path in targets.values():
        if os.path.exists(path) and not args.overwrite:
            raise OutputError(f"--fix {path} exists; name another, or add --overwrite")
    return targets


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all, and the folders that it is in."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text)


def _check_parents(option: str, path: str) -> None:
    """There is a folder in which the rest of the path can be made."""
    folder = Path(path).absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{option} {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {path}: no permission to write in {folder}")


def _check_file(option: str, path: str, overwrite: bool) -> None:
    """An earlier one of the same kind is replaced, anything else if the user says so."""
    if os.path.isdir(path):
        raise OutputError(f"{option} {path} is a folder; name the file to write")
    if not os.path.exists(path) or overwrite:
        return
    if not os.path.isfile(path):
        raise OutputError(f"{option} {path} is not a regular file")
    with open(path, "rb") as file:
        head = file.read(_HEAD).decode("utf-8", errors="replace")
    if head and _OWN[option] not in head:
        raise OutputError(
            f"{option} {path} exists, and is of something else; name another, or add --overwrite"
        )
