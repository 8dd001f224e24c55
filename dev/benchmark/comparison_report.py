"""Tables of compare_with_mmdet.py, on the terminal and in docs/benchmarks/."""

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from queryinst.environment import as_line, describe_hardware, describe_versions

from .groups import Group, Row
from .measuring import Measurement, gigabytes, quietness
from .verdict import Check

_METHOD = """\
The same weights and images on both sides, each in processes of its own, in turn; of
each side the least median counts. Memory is the highest resident size of the steps
(VmHWM), on a GPU the allocator's. Inference is 800x1199 to masks in 427x640, training a
step on 512x672 with the optimizer."""


@dataclass
class Outcome:
    """Of one group.

    Attributes:
        turns: by side, one for each of its processes.
        notes: sentences about what the sides computed.
    """

    name: str
    group: Group
    turns: Mapping[str, list[Measurement]]
    checks: list[Check]
    notes: list[str]
    threads: int

    def time(self, side: str) -> float:
        """The least median."""
        return min(turn.median for turn in self.turns[side])

    def cpu_time(self, side: str) -> float:
        """Of all threads; what other processes take counts less here."""
        return min(turn.cpu_median for turn in self.turns[side])

    def memory(self, side: str) -> int | None:
        """The highest peak."""
        return _highest(turn.peak_bytes for turn in self.turns[side])


@dataclass
class Record:
    """All groups, and what they ran on."""

    outcomes: list[Outcome]
    device: str
    amp: bool
    minutes: float
    peer: Mapping[str, str]
    tf32: bool = False

    @property
    def others_share(self) -> float | None:
        """What others used of the cores, at the worst."""
        turns = [turns for outcome in self.outcomes for turns in outcome.turns.values()]
        return _highest(turn.others_share for side in turns for turn in side)


def _highest(values: Iterable) -> float | None:
    """None if a value is unknown."""
    known = list(values)
    return None if None in known else max(known)


def verdict(ratio: float | None, limit: float | None) -> str:
    """How a ratio stands to what it is to reach."""
    if limit is None:
        return ""
    if ratio is None:
        return f"{limit:.2f}, unknown"
    return f"{limit:.2f}, {'reached' if ratio <= limit else 'NOT REACHED'}"


class Ratios(NamedTuple):
    """Of one side to another: the least medians, and the peaks; None where that is unknown."""

    time: float
    cpu_time: float
    memory: float | None


def ratios(outcome: Outcome, row: Row) -> Ratios:
    ours, theirs = outcome.memory(row.side), outcome.memory(row.reference)
    return Ratios(
        outcome.time(row.side) / outcome.time(row.reference),
        outcome.cpu_time(row.side) / outcome.cpu_time(row.reference),
        ours / theirs if ours is not None and theirs else None,
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """In Markdown; the first column is text, the others are figures."""
    align = ["left", *["right"] * (len(header) - 1)]
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def ratio_table(outcomes: list[Outcome], device: str = "cpu") -> str:
    """Every row, on the CPU with what it is to reach."""
    rows = []
    for outcome in outcomes:
        for row in outcome.group.rows:
            if device != "cpu":
                row = row._replace(time_floor=None, aim=None, memory_floor=None)
            time, cpu_time, memory = ratios(outcome, row)
            memory_text = "unknown" if memory is None else f"{memory:.2f}"
            floor, aim = verdict(time, row.time_floor), verdict(time, row.aim)
            memory_floor = verdict(memory, row.memory_floor)
            times = [f"{time:.2f}", floor, aim, f"{cpu_time:.2f}"]
            rows.append([row.title, *times, memory_text, memory_floor])
    header = ["ratio to MMDetection", "time", "floor", "aim", "CPU time", "peak memory", "floor"]
    return table(header, rows)


def duration(seconds: float) -> str:
    """In seconds, short ones in milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def side_table(outcome: Outcome) -> str:
    """Each side of a group with its figures."""
    rows = []
    for side, turns in outcome.turns.items():
        best = min(turns, key=lambda turn: turn.median)
        seconds = [value for turn in turns for value in turn.seconds]
        others = "unknown" if best.others_share is None else f"{100 * best.others_share:.0f} %"
        times = [duration(best.median), f"{duration(min(seconds))} to {duration(max(seconds))}"]
        memory = [gigabytes(outcome.memory(side)), gigabytes(best.resident_bytes)]
        rows.append([side, *times, duration(outcome.cpu_time(side)), *memory, others])
    header = [outcome.name, "time", "all steps", "CPU time", "peak", "before", "used by others"]
    return table(header, rows)


def outcome_lines(outcome: Outcome, device: str = "cpu") -> list[str]:
    """One group: figures, ratios, and whether the outputs are equal."""
    lines = [side_table(outcome), "", ratio_table([outcome], device), ""]
    for check in outcome.checks:
        word = "within" if check.is_met else "BEYOND"
        lines.append(f"- {check.name}: {check.value:.2g}, {word} {check.limit:g}")
    return lines + [f"- {note}" for note in outcome.notes]


def summary_lines(record: Record) -> list[str]:
    """All ratios, how quiet the machine was, and the verdict of the outputs."""
    checks = [check for outcome in record.outcomes for check in outcome.checks]
    failed = [check.name for check in checks if not check.is_met]
    equal = f"outputs DIFFER: {'; '.join(failed)}" if failed else "outputs equal MMDetection's"
    end = f"{equal}; {quietness(record.others_share)}; {record.minutes:.1f} minutes"
    return [ratio_table(record.outcomes, record.device), "", end]


def write(record: Record, folder: Path, today: datetime.date | None = None) -> list[Path]:
    """DATE-HARDWARE.md and .json; of the same day and hardware the newest stays."""
    today = today or datetime.date.today()
    hardware = describe_hardware(record.device)
    versions = {**describe_versions(), **record.peer}
    lines = [
        f"# QueryInst and MMDetection side by side, {today}",
        "",
        f"Written by `make benchmark RECORD=1`. {as_line(hardware)}.",
        f"{as_line(versions)}. In {_precision(record)}.",
        "",
        *summary_lines(record),
        "",
        _METHOD,
    ]
    for outcome in record.outcomes:
        lines += ["", f"## {outcome.name}", "", *outcome_lines(outcome, record.device)]
    values = {
        "date": str(today),
        "hardware": hardware,
        "versions": versions,
        "amp": record.amp,
        "tf32": record.tf32,
        "groups": list(map(_as_json, record.outcomes)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{today}-{slug(hardware, record)}"
    markdown, data = folder / f"{stem}.md", folder / f"{stem}.json"
    markdown.write_text("\n".join(lines) + "\n")
    data.write_text(json.dumps(values, indent=1) + "\n")
    return [markdown, data]


def _precision(record: Record) -> str:
    half = "bf16" if record.device == "cpu" else "fp16"
    return half if record.amp else "TF32" if record.tf32 else "fp32"


def _as_json(outcome: Outcome) -> dict:
    rows = outcome.group.rows
    return {
        "name": outcome.name,
        "sides": {side: [*map(asdict, turns)] for side, turns in outcome.turns.items()},
        "ratios": [row._asdict() | ratios(outcome, row)._asdict() for row in rows],
        "checks": [{**check._asdict(), "is_met": check.is_met} for check in outcome.checks],
        "notes": outcome.notes,
        "threads": outcome.threads,
    }


def slug(hardware: Mapping, record: Record) -> str:
    """Of file names: processor and its vector instructions, or GPU, and the threads."""
    name = str(hardware.get("gpu") or hardware["processor"])
    words = re.sub(r"\(r\)|\(tm\)|@.*|processor|\d+-core|cpu", " ", name.lower())
    stem = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    if "gpu" not in hardware:
        kind = str(hardware["instructions"]).partition(" ")[0].lower()
        stem += f"-{kind}-{record.outcomes[0].threads}-threads"
    return stem + ("-amp" if record.amp else "-tf32" if record.tf32 else "")
