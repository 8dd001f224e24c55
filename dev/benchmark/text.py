"""Results as lines of text."""

from collections.abc import Mapping, Sequence

from queryinst.environment import as_line

from .case import Result
from .measuring import Load, Measurement


def describe_result(result: Result) -> list[str]:
    """One result for the terminal."""
    case, model = result.case, result.model
    assert case.size is not None
    size = "x".join(map(str, case.size))
    what = "objects of an image" if case.task == "training" else "detections in a picture of"
    with_what = (
        f"{case.instances} {what}"
        if case.task == "training"
        else f"{result.output['detections']:g} {what} {'x'.join(map(str, case.output_size))}"
    )
    return [
        f"{case.task}: {case.batch} x {size}, {model['queries']} queries, {model['classes']}"
        f" classes, {with_what}, on {model['device']}",
        f"  time    {describe_time(result.measurement)},"
        f" {result.images_per_second:.2f} images/s",
        f"  memory  {describe_memory(result.measurement)}",
        f"  load    {describe_load(result.measurement.load)}",
        *(f"  {line}" for line in part_lines(result.parts)),
        f"  output  {as_line({name: f'{value:g}' for name, value in result.output.items()})}",
        f"  with    {as_line(result.versions)}",
        f"  on      {as_line(result.hardware)}",
    ]


def describe_time(measurement: Measurement) -> str:
    """Median and spread."""
    seconds = measurement.seconds
    return (
        f"{measurement.median:.3f} s (median of {len(seconds)}, {min(seconds):.3f} to"
        f" {max(seconds):.3f})"
    )


def describe_memory(measurement: Measurement) -> str:
    if measurement.peak_bytes is None or measurement.resident_bytes is None:
        return "unknown: this system does not tell the peak"
    return (
        f"{gigabytes(measurement.peak_bytes)} at the peak,"
        f" {gigabytes(measurement.resident_bytes)} before the step"
    )


def describe_load(load: Load) -> str:
    """How much of the machine others used."""
    if load.others_share is None:
        return f"this process used {load.own:.2f} of {load.cores} cores; of others nothing is known"
    verdict = "quiet" if load.is_quiet else "NOT QUIET"
    return (
        f"others used {100 * load.others_share:.0f} % of {load.cores} cores ({verdict}), this"
        f" process {load.own:.2f} cores"
    )


def part_lines(parts: Mapping[str, float]) -> list[str]:
    """A line for each part with its seconds and its share of all."""
    total = sum(parts.values())
    return [f"{name:12}{seconds:8.3f} s {share(seconds, total)}" for name, seconds in parts.items()]


def largest_parts(parts: Mapping[str, float], num: int = 3) -> str:
    """The names of the largest parts, with their shares."""
    total = sum(parts.values())
    order = sorted(parts, key=lambda name: -parts[name])[:num]
    return ", ".join(f"{name} {share(parts[name], total).strip()}" for name in order)


def share(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:4.0f} %" if total else "     -"


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines; the first column is text, the others are figures."""
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
