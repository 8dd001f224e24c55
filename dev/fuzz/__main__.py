"""Draws inputs, runs them, and prints what they led to as a table in Markdown.

An input that shows a defect is written to the folder of --failures as JSON, and can be tried again
by its seed or its file: `python -m dev.fuzz coco --replay 17`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import processes
from .checkpoints import Checkpoints
from .coco import CocoJson
from .configurations import Configurations
from .outcomes import Verdict, markdown_table

KINDS: dict[str, Callable[[], processes.Kind]] = {
    "configuration": Configurations,
    "checkpoint": Checkpoints,
    "coco": CocoJson,
}
_SEEDS = Path(__file__).parent / "seeds"  # inputs that failed once, a file for each kind


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 if an input shows a defect."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.kinds) - KINDS.keys()):
        parser.error(f"{unknown[0]!r} is no KIND; they are {', '.join(KINDS)}")
    counts, seconds, failed = {}, {}, False
    for name in args.kinds or KINDS:
        start = time.monotonic()
        verdicts = run_kind(name, args)
        counts[name], seconds[name] = Counter(v.outcome for v in verdicts), time.monotonic() - start
        failed |= any(map(processes.is_failure, verdicts))
    print(markdown_table(counts, seconds))
    return int(failed)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--failures", default="", metavar="DIR", help="default: a new one in TMPDIR"
    )
    parser.add_argument("--replay", metavar="SEED|FILE", help="run this one input, and print it")
    return parser


def run_kind(name: str, args: argparse.Namespace) -> list[Verdict]:
    """The verdicts on the kept inputs, which come first with seeds below 0, and on new ones."""
    kind, kept = KINDS[name](), kept_inputs(name)
    new = args.seed * 1_000_000
    seeds = [*range(-len(kept), 0), *range(new, new + args.inputs)]
    if args.replay is not None:
        is_file = args.replay.endswith(".json")
        kept = [json.loads(Path(args.replay).read_text())] if is_file else kept
        seeds = [-1 if is_file else int(args.replay)]

    def draw(seed: int) -> Any:
        return kept[-seed - 1] if seed < 0 else kind.draw(seed)

    verdicts, failures = [], Counter()
    for seed, verdict in processes.run_all(kind, seeds, draw, args.workers):
        verdicts.append(verdict)
        if args.replay is not None:
            print(f"{json.dumps(draw(seed))[:4000]}\n{verdict}")
        elif processes.is_failure(verdict):
            sort = verdict.outcome, verdict.place or verdict.line.split(":")[0][:80]
            failures[sort] += 1
            if failures[sort] == 1:  # one of each sort is enough
                _report(name, seed, verdict, draw(seed), args)
        if sys.stderr.isatty() and len(verdicts) % 50 == 0:
            print(f"\r{name}: {len(verdicts)} of {len(seeds)}", end="", file=sys.stderr)
    for (outcome, place), number in failures.most_common():
        print(f"{name}: {number} x {outcome}, {place}", file=sys.stderr)
    return verdicts


def kept_inputs(name: str) -> list[Any]:
    """Inputs of this kind that failed once."""
    return json.loads((_SEEDS / f"{name}.json").read_text())


def _report(name: str, seed: int, verdict: Verdict, given: Any, args: argparse.Namespace) -> None:
    args.failures = args.failures or tempfile.mkdtemp(prefix="fuzz-failures-")
    path = Path(args.failures) / f"{name}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given))
    print(f"{path}: {verdict.outcome}: {verdict.line}  [{verdict.place}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
