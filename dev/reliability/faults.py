"""Faults of a run, one after the other, as a table: what is expected, what is seen.

python -m dev.reliability.faults [--only TEXT] [--folder FOLDER]

Each fault happens to a tiny training in processes of its own. The exit status is 1 if a row differs
from what is expected.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from queryinst.data.shapes import make_shapes
from queryinst.model_zoo import get_config_file

from .fault_list import FAULTS
from .fault_runs import Case, Fault, Seen


def table(rows: list[tuple[Fault, Seen | None, str]]) -> str:
    """Markdown."""
    lines = ["| fault | expected | seen | |", "| --- | --- | --- | --- |"]
    for fault, seen, verdict in rows:
        text = str(seen).replace("|", "\\|") if seen else "no end"
        lines.append(f"| {fault.name} | {fault.expected} | {text} | {verdict} |")
    return "\n".join(lines)


def prepare(folder: Path) -> tuple[Path, Path]:
    """Data and a configuration of a tiny model."""
    make_shapes(folder, num_train=6, num_val=4, seed=0)
    config = {
        "_BASE_": get_config_file("quick_schedules/queryinst_R_50_FPN_instant_test.yaml"),
        "DATASETS": {"TRAIN": ("tiny_train",), "TEST": ()},
        "MODEL": {"QUERYINST": {"NUM_QUERIES": 4}, "ROI_MASK_HEAD": {"NUM_CONV": 1}},
        "SOLVER": {"WARMUP_ITERS": 0, "BASE_LR": 0.001},
        "DATALOADER": {"NUM_WORKERS": 1},
        "SEED": 1,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, folder / "shapes"


def look(fault: Fault, case: Case) -> tuple[Fault, Seen | None, str]:
    """Let one fault happen."""
    try:
        seen = fault.happen(case)
    except (RuntimeError, subprocess.TimeoutExpired, IndexError, OSError) as error:
        return fault, None, f"**{type(error).__name__}**: {' '.join(str(error).split())[:200]}"
    return fault, seen, "yes" if fault.is_expected(seen) else "**no**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name has this text")
    parser.add_argument("--folder", help="for the runs; a new one is removed afterwards")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="faults"))
    config, data = prepare(folder)
    rows = []
    for number, fault in enumerate(x for x in FAULTS if args.only in x.name):
        place = folder / f"{number:02d}"
        place.mkdir()
        rows.append(look(fault, Case(place, config, data)))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    if not args.folder:
        shutil.rmtree(folder)
    print(table(rows))
    return 0 if all(verdict == "yes" for *_, verdict in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
