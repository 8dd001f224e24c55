"""Figures as text and Markdown."""

from collections.abc import Sequence

from tabulate import tabulate


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], num_texts: int = 1) -> str:
    """A Markdown table.

    Args:
        num_texts: columns at the left that hold words; the others are flush right.
    """
    align = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    return tabulate(
        [[str(cell) for cell in row] for row in rows],
        headers,
        tablefmt="pipe",
        colalign=align,
        disable_numparse=True,
    )


def gigabytes(num_bytes: float | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:.2f} GB"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
