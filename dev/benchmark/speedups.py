"""What each speed-up saves on the machine at hand: the time without it to the time with it.

The other speed-ups are those of "auto". Both models take turns in one process; a setting of the
process is compared by processes that take turns.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from queryinst.engine import setup_cfg
from queryinst.speedups import SPEEDUPS, Speedup, resolve

from .measuring import times_in_turn
from .subjects import Subject, build_subject

ROOT = Path(__file__).resolve().parents[2]
COCO, SHAPES = "COCO-InstanceSegmentation", "Shapes-InstanceSegmentation"


@dataclass(frozen=True)
class Column:
    """One of the steps that are timed."""

    title: str
    task: str
    config_file: str
    num_images: int
    size: tuple[int, int]


COLUMNS = (
    Column("inference, 100", "inference", f"{COCO}/queryinst_R_50_FPN_1x.yaml", 1, (800, 1199)),
    Column(
        "inference, 300", "inference", f"{COCO}/queryinst_R_50_FPN_3x_300q.yaml", 1, (800, 1199)
    ),
    Column("training, 100", "training", f"{COCO}/queryinst_R_50_FPN_1x.yaml", 2, (512, 672)),
    Column("training, 300", "training", f"{COCO}/queryinst_R_50_FPN_3x_300q.yaml", 2, (512, 672)),
    Column("training, demo", "training", f"{SHAPES}/queryinst_R_18_FPN.yaml", 4, (128, 128)),
)


def measure_speedups(task: str, repeats: int, names: list[str]) -> Iterator[str]:
    """Yield lines of a Markdown table: one row per speed-up of the CPU, one column per step.

    Args:
        task: "inference", "training" or "both".
        names: of speed-ups; empty for all.
    """
    device = "cpu"
    rows = [row for row in SPEEDUPS if not names or row.name in names]
    rows = [row for row in rows if row.auto != ("CUDA",)]
    columns = [column for column in COLUMNS if task in (column.task, "both")]
    ratios: dict[tuple[str, str], str] = {}
    for column in columns:
        used = [row for row in rows if column.task in row.tasks]
        ratios |= {
            (row.name, column.title): text for row, text in _measure(column, used, device, repeats)
        }
    yield "| speed-up | " + " | ".join(column.title for column in columns) + " |"
    yield "| --- |" + " ---: |" * len(columns)
    for row in rows:
        cells = [ratios.get((row.name, column.title), "") for column in columns]
        yield f"| {row.name} | " + " | ".join(cells) + " |"


def _measure(
    column: Column, rows: list[Speedup], device: str, repeats: int
) -> Iterator[tuple[Speedup, str]]:
    auto = [row.name for row in resolve(("auto",))]
    base: Subject | None = None
    for row in rows:
        is_auto = row.name in auto
        other = [name for name in auto if name != row.name] if is_auto else [*auto, row.name]
        if hasattr(row.module(), "apply_to_process"):
            times = _times_of_processes(column, (auto, other), device, repeats)
        else:
            base = base or _build(column, auto, device)
            times = _least_in_turn(base, _build(column, other, device), device, repeats)
        with_it, without_it = times if is_auto else times[::-1]
        ratio = f"{without_it / with_it:.2f}"
        print(
            f"{column.title}: {row.name} {ratio} ({without_it:.3f} s / {with_it:.3f} s)", flush=True
        )
        yield row, ratio
        gc.collect()


def _build(column: Column, names: list[str], device: str) -> Subject:
    cfg = _configure(column, names, device)
    return build_subject(
        cfg,
        column.task,
        num_images=column.num_images,
        size=column.size,
        output_size=(427, 640),
        num_instances=7,
    )


def _configure(column: Column, names: list[str], device: str) -> CfgNode:
    opts = ["MODEL.DEVICE", device, "MODEL.QUERYINST.SPEEDUPS", tuple(names)]
    return setup_cfg(column.config_file, opts, weights="")


def _least_in_turn(
    first: Subject, second: Subject, device: str, repeats: int
) -> tuple[float, float]:
    """The least seconds of a step of each."""
    times = times_in_turn([first.run, second.run], device, repeats)
    return min(times[0]), min(times[1])


def _times_of_processes(
    column: Column, both: tuple[list[str], list[str]], device: str, repeats: int
) -> tuple[float, float]:
    best = [float("inf")] * 2
    for _ in range(2):
        for index, names in enumerate(both):
            best[index] = min(best[index], _time_of_process(column, names, device, repeats))
    return best[0], best[1]


def _time_of_process(column: Column, names: list[str], device: str, repeats: int) -> float:
    height, width = column.size
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "benchmark.py")]
        command += ["--config-file", column.config_file, "--task", column.task]
        command += ["--batch", str(column.num_images), "--size", f"{height}x{width}"]
        command += ["--repeats", str(repeats), "--json", str(out)]
        command += ["MODEL.DEVICE", device, "MODEL.QUERYINST.SPEEDUPS", str(tuple(names))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return min(json.loads(out.read_text())[0]["measurement"]["seconds"])
