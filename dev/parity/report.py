"""Tables and verdicts of compare.py."""

import datetime
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comparison import Difference
from torch import Tensor

from dev.setup_peer import peer_versions
from queryinst.environment import as_line, describe_hardware, describe_versions

# In float32 a difference may be this many times MMDetection's own between float32 and float64 (in
# trainings: among its own runs), plus some units in the last place, as that one may be zero by
# chance.
NOISE_FACTOR = 4
ROUNDING = 1e-6
# In float64, relative to the largest value (of gradients: to the norm).
EQUAL_IN_FLOAT64 = 1e-9
IDENTICAL = ("matches", "mask targets", "top-k set", "detections not dropped")


class Section(Protocol):
    """A heading, the lines of a table in markdown, and whether all in it is equal."""

    title: str

    @property
    def is_equal(self) -> bool: ...

    def lines(self) -> list[str]: ...


def render(section: Section) -> str:
    """As text, columns aligned."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.lines()]
    rows = [row for row in cells if not set("".join(row)) <= set("-: ")]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(["", section.title, *lines])


@dataclass
class ParameterRow:
    name: str
    parameters: int
    tensors: int
    differing_shapes: int
    trained: int
    differing_trained: int

    @property
    def is_equal(self) -> bool:
        return self.differing_shapes == 0 and self.differing_trained == 0


@dataclass
class ParameterSection:
    rows: list[ParameterRow]
    speedups: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"Parameters of the models that the configurations build, {_named(self.speedups)}"

    @property
    def is_equal(self) -> bool:
        return len(self.rows) == 5 and all(row.is_equal for row in self.rows)

    def lines(self) -> list[str]:
        lines = [
            "| model | parameters | tensors | names or shapes that differ | trained parameters |"
            " trained in one alone | verdict |",
            "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for row in self.rows:
            lines.append(
                f"| {row.name} | {row.parameters:,} | {row.tensors} | {row.differing_shapes} |"
                f" {row.trained} | {row.differing_trained} | {_verdict(row.is_equal)} |"
            )
        return lines


@dataclass
class _Row:
    """A quantity, in float32, MMDetection's own noise, and in float64."""

    run: str
    quantity: str
    single: Difference
    noise: Mapping[str, float]
    double: Difference

    @property
    def is_relative(self) -> bool:
        return self.quantity == "gradients"

    def figures(self) -> tuple[float, float, float]:
        """What the table shows: largest differences; of gradients the worst relative norm."""
        if self.is_relative:
            return self.single.worst_norm, self.noise["worst_norm"], self.double.worst_norm
        return self.single.largest, self.noise["largest"], self.double.largest

    @property
    def is_equal(self) -> bool:
        single, noise, double = self.figures()
        if self.quantity.partition(",")[0] in IDENTICAL:
            return single == 0 and double == 0
        if self.single.exact:  # pixels: those at a score of a half may fall to either side, also
            # in float64, as MMDetection pastes in float32 in any case
            few = ROUNDING * self.single.count
            return single <= NOISE_FACTOR * noise + few and double <= few
        scale = 1.0 if self.is_relative else self.single.scale
        total = self.single.relative_norm <= NOISE_FACTOR * self.noise["relative_norm"] + ROUNDING
        is_near = single <= NOISE_FACTOR * noise + ROUNDING * scale
        return is_near and total and double <= EQUAL_IN_FLOAT64 * max(scale, 1)


@dataclass
class RunSection:
    name: str
    speedups: tuple[str, ...]
    rows: list[_Row] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.name}, {_named(self.speedups)}: a batch of two images"

    @property
    def is_equal(self) -> bool:
        return bool(self.rows) and all(row.is_equal for row in self.rows)

    def add(
        self,
        run: str,
        single: Mapping[str, Difference],
        noise: Mapping[str, Mapping[str, float]],
        double: Mapping[str, Difference],
    ) -> None:
        """All quantities of one run; `noise` as `Difference.figures`."""
        for quantity, difference in single.items():
            row = _Row(run, quantity, difference, noise[quantity], double[quantity])
            self.rows.append(row)

    def lines(self) -> list[str]:
        """A line for each quantity with its worst stage; for boxes one by stage."""
        lines = [
            "| run | quantity | largest value | difference, fp32 | MMDetection fp32 to fp64 |"
            " difference, fp64 | verdict |",
            "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        ]
        grouped: dict[tuple[str, str], list[_Row]] = {}
        for row in self.rows:
            grouped.setdefault((row.run, _without_stage(row.quantity)), []).append(row)
        for (run, quantity), rows in grouped.items():
            figures = [max(column) for column in zip(*(row.figures() for row in rows))]
            exact = rows[0].single.exact
            total = sum(row.single.count for row in rows)
            if exact:
                figures = [sum(column) for column in zip(*(row.figures() for row in rows))]
            cells = [f"{int(f)} of {total}" if exact else f"{f:.1e}" for f in figures]
            scale = max(row.single.scale for row in rows)
            size = "" if exact or rows[0].is_relative else f"{scale:.3g}"
            name = f"{quantity}, relative norm" if rows[0].is_relative else quantity
            verdict = _verdict(all(row.is_equal for row in rows))
            lines.append(f"| {run} | {name} | {size} | {' | '.join(cells)} | {verdict} |")
        return lines


def _without_stage(quantity: str) -> str:
    """All stages in one line, but for boxes, whose noise grows from stage to stage."""
    if quantity.startswith("boxes"):
        return quantity
    return re.sub(r", stage \d+", "", quantity)


@dataclass
class StepsSection:
    name: str
    speedups: tuple[str, ...]
    rows: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return (
            f"{self.name}, {_named(self.speedups)}: optimizer steps on batches of two 320-pixel"
            " images"
        )

    def add(self, ours, theirs, ours_double, theirs_double, nudged) -> None:
        """One step's losses by name: here, in MMDetection, both in float64; MMDetection's nudged.

        Its own runs are as far apart as any two of float32, float64 and float32 from weights
        `nudged` in the last bit: trainings are chaotic, so that one pair alone may stay close by
        chance.
        """
        own = (theirs, theirs_double, *nudged)
        self.rows.append(
            (
                _total(theirs),
                _total(ours),
                _largest(ours, theirs),
                max(_largest(*pair) for pair in itertools.combinations(own, 2)),
                _largest(ours_double, theirs_double),
            )
        )

    @property
    def is_equal(self) -> bool:
        return bool(self.rows) and all(map(self._is_equal, range(len(self.rows))))

    def _is_equal(self, step: int) -> bool:
        """Against the noise up to this step: once apart, trajectories do not come closer again."""
        _, _, single, _, double = self.rows[step]
        noise = max(row[3] for row in self.rows[: step + 1])
        return single <= NOISE_FACTOR * noise + ROUNDING and double <= 1e-6

    def lines(self) -> list[str]:
        lines = [
            "| step | sum of losses, MMDetection | here | worst loss, relative difference |"
            " MMDetection's own runs | difference, fp64 | verdict |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for step, row in enumerate(self.rows):
            theirs, ours, single, noise, double = row
            lines.append(
                f"| {step} | {theirs:.6f} | {ours:.6f} | {single:.1e} | {noise:.1e} |"
                f" {double:.1e} | {_verdict(self._is_equal(step))} |"
            )
        return lines


def _named(speedups: tuple[str, ...]) -> str:
    return f"SPEEDUPS {speedups}"


def _total(losses: Mapping[str, Tensor]) -> float:
    return sum(float(value) for value in losses.values())


def _largest(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(abs(float(ours[k]) - float(v)) / abs(float(v)) for k, v in theirs.items())


def _verdict(is_equal: bool) -> str:
    return "equal" if is_equal else "DIFFERS"


def record(path: Path, sections: list[Section], peer: Path, minutes: float) -> None:
    """Put the tables, with date, versions and hardware, below the marker of a document."""
    text = path.read_text()
    kept, marker, _ = text.partition(_MARKER)
    if not marker:
        raise ValueError(f"{path} has no line {_MARKER!r}, below which the tables go")
    parts = [kept + _MARKER, "", _circumstances(peer, minutes)]
    for section in sections:
        parts += ["", f"## {section.title}", "", *section.lines()]
    path.write_text("\n".join(parts) + "\n")


_MARKER = "<!-- what follows is written by `make parity RECORD=1` -->"


def _circumstances(peer: Path, minutes: float) -> str:
    return (
        f"{datetime.date.today()}, in {minutes:.1f} minutes. MMDetection has"
        f" {as_line(peer_versions(peer))}; both sides {as_line(describe_versions())}."
        f" {as_line(describe_hardware())}."
    )
