"""Counts what random mutations of a valid COCO JSON lead to, as a table in Markdown.

Each runs in a process with limits of time and memory. The exit status is 1 if one shows a defect:
`python -m dev.data_mutations --replay SEED` shows it again.
"""

import argparse
import json
import os
import sys
from collections import Counter

from dev.fuzz import processes
from dev.fuzz.outcomes import BARE, CLEAR, FATAL, RIGHT, WARNED, WRONG

from .trial import Mutations, is_original

AS_BEFORE = "accepted, with the masks and classes of the valid file"
AS_WRITTEN = "accepted, with what the file says now"
OUTCOMES = {
    CLEAR: "error in one line before the training",
    WARNED: "accepted with a warning",
    AS_BEFORE: AS_BEFORE,
    AS_WRITTEN: AS_WRITTEN,
    BARE: "traceback, or a message without a place",
    WRONG: "accepted in silence, but masks or AP are others than the file's",
    FATAL: "hang, crash or memory",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m dev.data_mutations", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this one, and print it")
    parser.add_argument("--list", action="store_true", help="print each mutation and its outcome")
    args = parser.parse_args(arguments)
    seeds = range(args.seed, args.seed + args.inputs)
    if args.replay is not None:
        seeds = range(args.replay, args.replay + 1)
    counts, failed = count(Mutations(), seeds, args)
    print("| outcome | files |\n| --- | ---: |")
    for outcome, title in OUTCOMES.items():
        print(f"| {title} | {counts[outcome]} |")
    return int(failed)


def count(kind: Mutations, seeds: range, args: argparse.Namespace) -> tuple[Counter[str], bool]:
    """How many files led to each outcome, and whether one shows a defect."""
    counts: Counter[str] = Counter()
    failed = False
    for seed, verdict in processes.run_all(kind, seeds, kind.draw, args.workers):
        outcome, given = verdict.outcome, kind.draw(seed)
        if outcome == RIGHT:
            outcome = AS_BEFORE if is_original(given) else AS_WRITTEN
        counts[outcome] += 1
        failed |= processes.is_failure(verdict)
        if args.list or processes.is_failure(verdict):
            print(f"{seed}: {given['said']}: {OUTCOMES[outcome]} {verdict.line} {verdict.place}")
        if args.replay is not None:
            print(json.dumps(json.loads(given["text"]), indent=1))
    return counts, failed


if __name__ == "__main__":
    sys.exit(main())
