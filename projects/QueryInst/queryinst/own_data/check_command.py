"""`queryinst data check`: reads a data set, and says what is wrong with it and what is in it."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from tqdm import tqdm

from ..data.findings import Findings
from ..data.fixing import fix_coco
from .check import Advance, CheckResult, check_data
from .check_json import as_json
from .check_outputs import OutputError, check_outputs, fixed_files, write_text
from .check_text import legend, printable, problems_text, statistics_text, verdict
from .sources import Split, read_data


def run(args: argparse.Namespace) -> int:
    """Check the data, print what is found, and write what is asked for.

    Args:
        args: `data`, `html`, `json`, `fix` (None for not), `fast`, `workers` (None for as many as
            cores), `no_progress`, `overwrite`.

    Returns:
        The exit status: 1 if there are errors, or if nothing could be mended; 2 for wrong
        arguments; else 0.

    Raises:
        ValueError, OSError: the data are not recognised, or a file cannot be written. One line.
    """
    findings = Findings()
    try:
        check_outputs(args)
        if args.html is not None:
            _page_module()
        splits = read_data(args.data, findings=findings)
        targets = fixed_files(args, splits)
    except OutputError as error:
        print(f"queryinst data check: error: {printable(str(error))}", file=sys.stderr)
        return 2
    with Bars(hidden=args.no_progress) as bars:
        result = check_data(
            splits, fast=args.fast, workers=args.workers, findings=findings, progress=bars
        )
    print_result(result)
    if args.json is not None:
        write_text(args.json, json.dumps(as_json(result)))
        print(f"all of this as JSON: {printable(args.json)}")
    if args.html is not None:
        write_text(args.html, _page_module().render_page(result, args.data))
        print(f"with pictures and plots: {printable(args.html)}")
    is_mended = _fix(splits, targets)
    print(verdict(result), flush=True)
    return 1 if result.num_errors or not is_mended else 0


def _page_module() -> ModuleType:
    """What needs the packages that --html alone takes.

    Raises:
        ImportError: one is not installed.
    """
    try:
        return importlib.import_module("queryinst.own_data.check_page")
    except ImportError as error:
        raise ImportError(
            f"--html needs the package {error.name}: pip install {error.name}"
        ) from error


def print_result(result: CheckResult) -> None:
    """The problems and the figures, without the verdict."""
    for text in (problems_text(result), statistics_text(result)):
        if text:
            print(text)
    if result.statistics:
        print(f"{legend(result)}\n")


def _fix(splits: Sequence[Split], targets: dict[str, str]) -> bool:
    """Write mended copies, and say what was done; whether all could be written."""
    is_whole = True
    for split in splits:
        if (target := targets.get(split.json_file)) is None:
            continue
        try:
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            counts = fix_coco(split.json_file, target, split.image_root)
        except (OSError, ValueError) as error:
            print(f"queryinst data check: error: {printable(str(error))}", file=sys.stderr)
            is_whole = False
            continue
        done = ", ".join(f"{mend} {count:,}" for mend, count in counts.items() if count)
        print(f"mended copy {printable(target)}: {done or 'nothing to mend without a guess'}")
    return is_whole


class Bars:
    """A bar for each step of a check, where stderr is a terminal."""

    def __init__(self, *, hidden: bool):
        self._disable = True if hidden else None
        self._bar: tqdm | None = None

    def __call__(self, what: str, total: int) -> Advance:
        self._close()
        form = None if total else "{desc} ... {elapsed}"
        self._bar = tqdm(
            total=total or None,
            desc=printable(what),
            unit="image",
            disable=self._disable,
            leave=False,
            bar_format=form,
        )
        return self._bar.update

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
