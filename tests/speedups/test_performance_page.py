"""docs/performance.md holds the table of speed-ups, row by row."""

from pathlib import Path

from queryinst.speedups import SPEEDUPS, Speedup

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
HEAD = '| name | replaces | in | where | `"auto"` on | gain, AVX-512 | gain, AVX2 |'


def line(row: Speedup) -> str:
    cells = [f"`{row.name}`", row.replaces, ", ".join(row.tasks), row.where, ", ".join(row.auto)]
    return f"| {' | '.join([*cells, row.gain_avx512, row.gain_avx2])} |"


def test_SPEEDUPS_are_the_rows_of_the_page():
    lines = PAGE.read_text().splitlines()
    start = lines.index(HEAD) + 2
    assert lines[start : start + len(SPEEDUPS) + 1] == [*map(line, SPEEDUPS), ""]


def test_SPEEDUPS_state_a_gain_wherever_auto_takes_them():
    for row in SPEEDUPS:
        for kind, gain in (("AVX512", row.gain_avx512), ("AVX2", row.gain_avx2)):
            assert gain and (kind in row.auto) != gain.startswith("none") or row.auto == ("CUDA",)
