"""Tables and verdicts of compare.py."""

import datetime
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from comparison import Difference
from tabulate import tabulate
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
IDENTICAL = ("matches", "mask targets", "top-k set")
NUM_MODELS = 5
_MARKER = "<!-- what follows is written by `make parity RECORD=1` -->"


class Section(NamedTuple):
    """A heading, a table whose last column is a verdict, and whether all in it is equal."""

    title: str
    header: list[str]
    rows: list[list[str]]
    is_equal: bool
    num_texts: int = 1  # columns at the left that are no figures

    def table(self) -> str:
        """In Markdown."""
        num_figures = len(self.header) - self.num_texts - 1
        align = ["left"] * self.num_texts + ["right"] * num_figures + ["left"]
        return tabulate(
            self.rows, self.header, tablefmt="pipe", colalign=align, disable_numparse=True
        )


def _verdict(is_equal: bool) -> str:
    return "equal" if is_equal else "DIFFERS"


class Parameters(NamedTuple):
    """Of one model: how many there are, and how many differ from MMDetection's."""

    name: str
    parameters: int
    tensors: int
    differing_shapes: int
    trained: int
    differing_trained: int

    @property
    def is_equal(self) -> bool:
        return self.differing_shapes == 0 and self.differing_trained == 0


def parameter_section(models: list[Parameters]) -> Section:
    return Section(
        "Parameters of the models that the configurations build",
        ["model", "parameters", "tensors", "names or shapes that differ", "trained parameters"]
        + ["trained in one alone", "verdict"],
        [[m.name, *(f"{n:,}" for n in m[1:]), _verdict(m.is_equal)] for m in models],
        len(models) == NUM_MODELS and all(model.is_equal for model in models),
    )


@dataclass
class Quantity:
    """A quantity of a run, in float32, MMDetection's own noise, and in float64."""

    run: str
    name: str
    single: Difference
    noise: Mapping[str, float]
    double: Difference

    @property
    def is_relative(self) -> bool:
        return self.name == "gradients"

    @property
    def line(self) -> tuple[str, str]:
        """All stages in one line, but for boxes, whose noise grows from stage to stage."""
        if self.is_relative:
            return self.run, f"{self.name}, relative norm"
        has_line = self.name.startswith("boxes")
        return self.run, self.name if has_line else re.sub(r", stage \d+", "", self.name)

    def figures(self) -> tuple[float, float, float]:
        """What the table shows: largest differences; of gradients the worst relative norm."""
        if self.is_relative:
            return self.single.worst_norm, self.noise["worst_norm"], self.double.worst_norm
        return self.single.largest, self.noise["largest"], self.double.largest

    @property
    def is_equal(self) -> bool:
        single, noise, double = self.figures()
        if self.name.partition(",")[0] in IDENTICAL:
            return single == 0 and double == 0
        if self.single.exact:  # pixels: those at a score of a half may fall to either side, also
            # in float64, as MMDetection pastes in float32 in any case
            few = ROUNDING * self.single.count
            return single <= NOISE_FACTOR * noise + few and double <= few
        scale = 1.0 if self.is_relative else self.single.scale
        total = self.single.relative_norm <= NOISE_FACTOR * self.noise["relative_norm"] + ROUNDING
        is_near = single <= NOISE_FACTOR * noise + ROUNDING * scale
        return is_near and total and double <= EQUAL_IN_FLOAT64 * max(scale, 1)


def run_section(model: str, quantities: list[Quantity]) -> Section:
    """A line for each quantity with its worst stage; for boxes one by stage."""
    lines: dict[tuple[str, str], list[Quantity]] = {}
    for quantity in quantities:
        lines.setdefault(quantity.line, []).append(quantity)
    return Section(
        f"{model}: a batch of two images",
        ["run", "quantity", "largest value", "difference, fp32", "MMDetection fp32 to fp64"]
        + ["difference, fp64", "verdict"],
        [[*line, *_cells(stages)] for line, stages in lines.items()],
        bool(quantities) and all(quantity.is_equal for quantity in quantities),
        num_texts=2,
    )


def _cells(stages: list[Quantity]) -> list[str]:
    """Of one line: the scale, the three differences and the verdict."""
    columns = list(zip(*(stage.figures() for stage in stages)))
    verdict = _verdict(all(stage.is_equal for stage in stages))
    if stages[0].single.exact:
        total = sum(stage.single.count for stage in stages)
        return ["", *(f"{int(sum(column))} of {total}" for column in columns), verdict]
    scale = max(stage.single.scale for stage in stages)
    size = "" if stages[0].is_relative else f"{scale:.3g}"
    return [size, *(f"{max(column):.1e}" for column in columns), verdict]


class Step(NamedTuple):
    """Losses of one optimizer step."""

    theirs: float
    ours: float
    single: float
    noise: float
    double: float


def step(ours, theirs, ours_double, theirs_double, nudged) -> Step:
    """One step's losses by name: here, in MMDetection, both in float64; MMDetection's nudged.

    Its own runs are as far apart as any two of float32, float64 and float32 from weights `nudged`
    in the last bit: trainings are chaotic, so that one pair alone may stay close by chance.
    """
    own = (theirs, theirs_double, *nudged)
    return Step(
        float(sum(theirs.values())),
        float(sum(ours.values())),
        _largest(ours, theirs),
        max(_largest(*pair) for pair in itertools.combinations(own, 2)),
        _largest(ours_double, theirs_double),
    )


def _largest(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(abs(float(ours[k]) - float(v)) / abs(float(v)) for k, v in theirs.items())


def steps_section(model: str, steps: list[Step]) -> Section:
    """Against the noise up to each step: once apart, trajectories do not come closer again."""
    noises = itertools.accumulate((each.noise for each in steps), max)
    verdicts = [
        each.single <= NOISE_FACTOR * noise + ROUNDING and each.double <= 1e-6
        for each, noise in zip(steps, noises)
    ]
    rows = [
        [str(i), f"{s.theirs:.6f}", f"{s.ours:.6f}", *(f"{x:.1e}" for x in s[2:]), _verdict(equal)]
        for i, (s, equal) in enumerate(zip(steps, verdicts))
    ]
    return Section(
        f"{model}: optimizer steps on batches of two 320-pixel images",
        ["step", "sum of losses, MMDetection", "here", "worst loss, relative difference"]
        + ["MMDetection's own runs", "difference, fp64", "verdict"],
        rows,
        bool(steps) and all(verdicts),
        num_texts=0,
    )


def record(path: Path, sections: list[Section], peer: Path, minutes: float) -> None:
    """Put the tables, with date, versions and hardware, below the marker of a document."""
    kept, marker, _ = path.read_text().partition(_MARKER)
    if not marker:
        raise ValueError(f"{path} has no line {_MARKER!r}, below which the tables go")
    circumstances = (
        f"{datetime.date.today()}, in {minutes:.1f} minutes. MMDetection has"
        f" {as_line(peer_versions(peer))}; both sides {as_line(describe_versions())}."
        f" {as_line(describe_hardware())}."
    )
    tables = "".join(f"\n## {section.title}\n\n{section.table()}\n" for section in sections)
    path.write_text(f"{kept}{_MARKER}\n\n{circumstances}\n{tables}")
