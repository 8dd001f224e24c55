"""What a check found, for a terminal."""

from collections.abc import Collection, Iterator, Sequence

from ..data.findings import Group, Kind
from ..wording import counted
from .check import CheckResult
from .statistics import SIZE_BOUNDS, ClassStatistics, Percentiles, SplitStatistics

_MAX_CLASSES = 30  # that are listed
_MAX_NAME = 32  # characters of a class name in a table
_MAX_LINE = 600  # characters of a message
_SEVERITIES = (("error", "errors"), ("warning", "warnings"), ("note", "notes"))


def problems_text(result: CheckResult, without: Collection[Kind] = ()) -> str:
    """All problems by kind, the first ones of each, and what to do; empty without any."""
    lines = []
    for severity, _ in _SEVERITIES:
        for group in result.findings.groups(severity):  # type: ignore[arg-type]
            if group.kind not in without:
                lines += [*_group_lines(group), ""]
    return "\n".join(lines)


def _group_lines(group: Group) -> Iterator[str]:
    kind = group.kind
    yield f"{kind.severity} [{kind.name}] {kind.title}: {group.count:,}"
    for finding in group.examples:
        yield f"    {printable(finding.line)}"
    if more := group.count - len(group.examples):
        yield f"    and {more:,} more"
    yield f"  to do: {kind.advice}"


def printable(text: str) -> str:
    """A line that any terminal shows, whatever names and values are in it."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= _MAX_LINE else f"{shown[:_MAX_LINE]}..."


def statistics_text(result: CheckResult) -> str:
    """The figures of all parts in two tables; empty without any."""
    parts = result.statistics
    if not parts:
        return ""
    rows = [("", *(part.name for part in parts))]
    rows += [(label, *cells) for label, cells in figures(result)]
    return "\n".join([*_table(rows), "", *_class_lines(parts)])


def figures(result: CheckResult) -> Iterator[tuple[str, list[str]]]:
    """A label, and a cell for each part that has statistics."""
    parts, scale = result.statistics, result.scale
    yield "images", [f"{x.num_images:,}" for x in parts]
    yield "  without objects", [f"{x.num_images_without_objects:,}" for x in parts]
    numbers = {split.json_file: number for number, split in enumerate(result.splits)}
    places = [numbers[x.json_file] for x in parts]
    yield "  equal to another", [f"{result.equal.within.get(x, 0):,}" for x in places]
    if len(parts) > 1:
        yield "  also in other parts", [f"{result.equal.shared.get(x, 0):,}" for x in places]
    yield "  most frequent size", [_common_size(x) for x in parts]
    yield "classes", [f"{len(x.thing_classes):,}" for x in parts]
    yield "objects", [f"{x.num_objects:,}" for x in parts]
    yield "crowds", [f"{x.num_crowds:,}" for x in parts]
    per_image = [Percentiles.of(x.objects_per_image) for x in parts]
    yield "objects an image: p5 p50 p95 max", [_numbers(x) for x in per_image]
    for limit, label in (
        (scale.num_queries, "NUM_QUERIES"),
        (scale.detections, "DETECTIONS_PER_IMAGE"),
    ):
        cells = [f"{x.num_images_over(limit):,}" for x in parts]
        yield f"  images over {label} {limit}", cells
    sides = [_numbers(Percentiles.of(x.object_sizes)) for x in parts]
    yield "sides of objects: p5 p50 p95 max", sides
    low, high = SIZE_BOUNDS
    for i, label in enumerate((f"below {low}", f"{low} to {high}", f"{high} and more")):
        yield f"  {label} pixels", [_share(x.size_counts, i) for x in parts]


def legend(result: CheckResult) -> str:
    """What the tables' figures mean, in a line."""
    scale = result.scale
    size = f"{scale.short_side:g} (at most {scale.max_size})" if scale.short_side else "their own"
    return (
        "Crowds are no objects. p5: 5 of 100 are not above it. Sides are square roots of areas as"
        f" in training, with the images' short side at {size} pixels."
    )


def verdict(result: CheckResult) -> str:
    """The last line."""
    said = []
    for severity, plural in _SEVERITIES:
        groups = list(result.findings.groups(severity))  # type: ignore[arg-type]
        count = sum(group.count for group in groups)
        kinds = f" of {len(groups)} kinds" if len(groups) > 1 else ""
        said += [counted(count, severity, plural) + kinds] if count else []
    counts = ", ".join(said) or "no problems found"
    if result.num_errors:
        return f"not ready: {counts}"
    return f"ready to train: {counts}" if result.statistics else f"nothing to train on: {counts}"


def _class_lines(parts: Sequence[SplitStatistics]) -> Iterator[str]:
    by_name: dict[str, dict[int, ClassStatistics]] = {}
    for number, part in enumerate(parts):
        for class_ in part.classes():
            by_name.setdefault(class_.name, {})[number] = class_
    rows = [("class",)]
    for part in parts:
        rows[0] += (f"{part.name}: objects", "images", "median side")  # type: ignore[assignment]
    for name, found in list(by_name.items())[:_MAX_CLASSES]:
        cells: list[str] = []
        for number in range(len(parts)):
            class_ = found.get(number, ClassStatistics(name, 0, 0, 0, 0))
            cells += [f"{class_.num_objects:,}", f"{class_.num_images:,}"]
            cells.append(f"{class_.median_size:.0f}" if class_.num_objects else "-")
        rows.append((printable(name)[:_MAX_NAME], *cells))  # type: ignore[arg-type]
    yield from _table(rows)
    if more := len(by_name) - _MAX_CLASSES:
        yield f"and {more:,} more, which --json and --html have" if more > 0 else ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:]))
        yield "  ".join([first.ljust(widths[0]), *padded]).rstrip()


def _numbers(values: Percentiles) -> str:
    return " ".join(f"{value:.0f}" for value in values)


def _share(counts: tuple[int, int, int], index: int) -> str:
    return f"{100 * counts[index] / sum(counts):.0f}%" if sum(counts) else "-"


def _common_size(part: SplitStatistics) -> str:
    common = part.common_image_sizes(1)
    if not common:
        return "-"
    width, height, count = common[0]
    return f"{width}x{height} ({100 * count / part.num_images:.0f}%)"
