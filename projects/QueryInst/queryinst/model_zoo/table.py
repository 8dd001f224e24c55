"""The model zoo's table in projects/QueryInst/README.md, made of models.yaml."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from .metadata import Measured, ModelEntry

BEGIN = "<!-- model zoo: made by tools/render_zoo.py, not by hand -->"
END = "<!-- end of the model zoo -->"

_CONFIGS = "../../configs/"  # from the project's README


def render_tables(entries: Sequence[ModelEntry]) -> str:
    """A table for each publisher, in the order of the entries; Markdown."""
    groups = groupby(entries, key=lambda entry: entry.published.by)
    return "\n\n".join(_table(by, list(models)) for by, models in groups)


def insert_tables(text: str, entries: Sequence[ModelEntry], shown: str) -> str:
    """The text with the tables anew between its two markers; `shown` names it in messages.

    Raises:
        ValueError: there are no such markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{shown} must have the lines {BEGIN!r} and, behind it, {END!r}")
    return f"{before}{BEGIN}\n\n{render_tables(entries)}\n\n{END}{after}"


def find_readme() -> Path | None:
    """The project's README of a checkout; an installed wheel has none."""
    path = Path(__file__).resolve().parents[2] / "README.md"
    return path if path.is_file() else None


def _table(by: str, entries: Sequence[ModelEntry]) -> str:
    aligned = [
        ("configuration", "---"),
        ("queries", "---:"),
        ("recipe", "---"),
        ("parameters", "---:"),
        (f"box AP, published by {by}", "---:"),
        (f"mask AP, published by {by}", "---:"),
        ("measured here: box / mask AP", "---"),
        ("weights", "---"),
    ]
    rows = [[header for header, _ in aligned], [rule for _, rule in aligned]]
    return "\n".join(_row(cells) for cells in rows + [_cells(entry) for entry in entries])


def _row(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _cells(entry: ModelEntry) -> list[str]:
    stem = entry.config.rpartition("/")[2].removesuffix(".yaml")
    recipe = entry.recipe
    crops = ", crops" if recipe.crop else ""
    url = entry.checkpoint_url
    return [
        f"[{stem}]({_CONFIGS}{entry.config})",
        str(recipe.queries),
        f"{recipe.epochs} epochs, short side {recipe.short_side}{crops}",
        f"{entry.parameters / 1e6:.1f} M",
        f"{entry.published.box_ap:.1f}",
        f"{entry.published.mask_ap:.1f}",
        measured_text(entry.measured),
        f"`{url}`" if url else "no stable address",
    ]


def measured_text(measured: Measured | None) -> str:
    """What was measured, when and with which changes to the configuration; "" if nothing was."""
    if measured is None:
        return ""
    changes = f", `{measured.options}`" if measured.options else ""
    return f"{measured.box_ap:.1f} / {measured.mask_ap:.1f} ({measured.date}{changes})"
