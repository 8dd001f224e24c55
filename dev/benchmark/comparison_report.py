"""Tables of compare_with_mmdet.py, on the terminal and in docs/benchmarks/."""

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from queryinst.environment import as_line, describe_hardware, describe_versions

from .groups import Group, Row
from .measuring import QUIET, Measurement
from .text import gigabytes, markdown_table
from .verdict import Check

COMMAND = "make benchmark"


@dataclass
class Outcome:
    """Of one group.

    Attributes:
        turns: by side, one for each of its processes.
        unique: by side, the number of queries that the detections of each image come from.
    """

    name: str
    group: Group
    turns: Mapping[str, list[Measurement]]
    checks: list[Check]
    unique: Mapping[str, list[int]]
    notes: Mapping[str, str]
    threads: int

    def time(self, side: str) -> float:
        """The least median."""
        return min(turn.median for turn in self.turns[side])

    def cpu_time(self, side: str) -> float:
        """Of all threads; what other processes take counts less here."""
        return min(turn.cpu_median for turn in self.turns[side])

    def memory(self, side: str) -> int | None:
        """The highest peak."""
        peaks = [turn.peak_bytes for turn in self.turns[side]]
        return None if None in peaks else max(peak for peak in peaks if peak is not None)

    @property
    def others_share(self) -> float | None:
        """What others used of the cores, at the worst."""
        shares = [turn.load.others_share for turns in self.turns.values() for turn in turns]
        return max((share for share in shares if share is not None), default=None)


@dataclass
class Record:
    """All groups, and what they ran on."""

    outcomes: list[Outcome]
    device: str
    amp: bool
    minutes: float
    peer: Mapping[str, str]

    @property
    def others_share(self) -> float | None:
        shares = [outcome.others_share for outcome in self.outcomes]
        return max((share for share in shares if share is not None), default=None)


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


def ratios(outcome: Outcome, row: Row) -> Ratios | None:
    """Of a row; None if one of its sides did not run."""
    if not {row.side, row.reference} <= outcome.turns.keys():
        return None
    ours, theirs = outcome.memory(row.side), outcome.memory(row.reference)
    return Ratios(
        outcome.time(row.side) / outcome.time(row.reference),
        outcome.cpu_time(row.side) / outcome.cpu_time(row.reference),
        ours / theirs if ours is not None and theirs else None,
    )


def ratio_table(outcomes: list[Outcome]) -> list[str]:
    """Every row with what it is to reach."""
    rows = []
    for outcome in outcomes:
        for row in outcome.group.rows:
            if (values := ratios(outcome, row)) is None:
                continue
            rows.append(
                [
                    row.title,
                    f"{values.time:.2f}",
                    verdict(values.time, row.time_floor),
                    verdict(values.time, row.aim),
                    f"{values.cpu_time:.2f}",
                    "unknown" if values.memory is None else f"{values.memory:.2f}",
                    verdict(values.memory, row.memory_floor),
                ]
            )
    header = ["ratio to MMDetection", "time", "floor", "aim", "CPU time", "peak memory", "floor"]
    return markdown_table(header, rows)


def side_table(outcome: Outcome) -> list[str]:
    """Each side of a group with its figures."""
    rows = []
    for side, turns in outcome.turns.items():
        best = min(turns, key=lambda turn: turn.median)
        seconds = [value for turn in turns for value in turn.seconds]
        peak, others = outcome.memory(side), best.load.others_share
        rows.append(
            [
                side,
                f"{best.median:.2f} s",
                f"{min(seconds):.2f} to {max(seconds):.2f} s",
                f"{outcome.cpu_time(side):.2f} s",
                "unknown" if peak is None else gigabytes(peak),
                gigabytes(best.resident_bytes) if best.resident_bytes is not None else "unknown",
                "unknown" if others is None else f"{100 * others:.0f} %",
            ]
        )
    header = [outcome.name, "time", "all steps", "CPU time", "peak", "before", "used by others"]
    return markdown_table(header, rows)


def outcome_lines(outcome: Outcome) -> list[str]:
    """One group: figures, ratios, and whether the outputs are equal."""
    lines = [*side_table(outcome), "", *ratio_table([outcome]), ""]
    for side, numbers in outcome.unique.items():
        lines.append(f"- {side}: unique kept queries {', '.join(map(str, numbers))}")
    for check in outcome.checks:
        word = "within" if check.is_met else "BEYOND"
        lines.append(f"- {check.name}: {check.value:.2g}, {word} {check.limit:g}")
    lines += [f"- {side}: {note}" for side, note in outcome.notes.items() if note]
    return lines


def describe_yardstick(outputs: Any, note: str) -> str:
    """What a further row computed, and how it is set up; nothing of the compared ones."""
    if not isinstance(outputs, dict):
        return ""
    return "; ".join([*(f"{name} {value}" for name, value in outputs.items()), note])


def summary_lines(record: Record) -> list[str]:
    """All ratios, how quiet the machine was, and the verdict of the outputs."""
    checks = [check for outcome in record.outcomes for check in outcome.checks]
    failed = [check.name for check in checks if not check.is_met]
    equal = f"outputs DIFFER: {'; '.join(failed)}" if failed else "outputs equal MMDetection's"
    lines = ratio_table(record.outcomes)
    return [*lines, "", f"{equal}; {quietness(record.others_share)}; {record.minutes:.1f} minutes"]


def quietness(others: float | None) -> str:
    if others is None:
        return "of other processes nothing is known"
    word = "quiet" if others <= QUIET else "NOT QUIET, so take these times with care"
    return f"others used at most {100 * others:.0f} % of the cores ({word})"


def write(record: Record, folder: Path, today: datetime.date | None = None) -> list[Path]:
    """DATE-HARDWARE.md and .json; of the same day and hardware the newest stays."""
    today = today or datetime.date.today()
    hardware = describe_hardware(record.device)
    stem = f"{today}-{slug(hardware, record)}"
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{stem}.md", folder / f"{stem}.json"
    versions = {**describe_versions(), **record.peer}
    markdown.write_text("\n".join(page(record, today, hardware, versions)) + "\n")
    values = {
        "date": str(today),
        "hardware": hardware,
        "versions": versions,
        "amp": record.amp,
        "groups": list(map(_as_json, record.outcomes)),
    }
    data.write_text(json.dumps(values, indent=1) + "\n")
    return [markdown, data]


def _as_json(outcome: Outcome) -> dict:
    return {
        "name": outcome.name,
        "sides": {side: [t.to_dict() for t in turns] for side, turns in outcome.turns.items()},
        "ratios": [
            {**asdict(row), **values._asdict()}
            for row in outcome.group.rows
            if (values := ratios(outcome, row))
        ],
        "checks": [{**check._asdict(), "is_met": check.is_met} for check in outcome.checks],
        "unique_queries": dict(outcome.unique),
        "notes": {side: note for side, note in outcome.notes.items() if note},
        "threads": outcome.threads,
    }


def page(record: Record, today, hardware: Mapping, versions: Mapping) -> Iterator[str]:
    """The markdown."""
    yield f"# QueryInst and MMDetection side by side, {today}"
    yield ""
    yield f"Written by `{COMMAND} RECORD=1`. {as_line(hardware)}."
    yield f"{as_line(versions)}."
    yield ""
    yield from summary_lines(record)
    yield ""
    yield "The same weights and images on both sides, each in processes of its own, in turn; of"
    yield "each side the least median counts. Memory is the highest resident size of the steps"
    yield "(VmHWM), on a GPU the allocator's. Inference is 800x1199 to masks in 427x640, training a"
    yield "step on 512x672 with the optimizer."
    for outcome in record.outcomes:
        yield from ("", f"## {outcome.name}", "", *outcome_lines(outcome))


def slug(hardware: Mapping, record: Record) -> str:
    """Of file names: processor or GPU, and the threads."""
    name = str(hardware.get("gpu") or hardware["processor"])
    words = re.sub(r"\(r\)|\(tm\)|@.*|processor|\d+-core|cpu", " ", name.lower())
    stem = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    if "gpu" not in hardware:
        threads = record.outcomes[0].threads if record.outcomes else hardware["threads"]
        stem += f"-{threads}-threads"
    return stem + ("-amp" if record.amp else "")
