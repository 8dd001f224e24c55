"""What a run of the comparison is, and the record that it leaves."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .data_sets import DataSet

MODELS = ("queryinst", "maskrcnn", "mmdet")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        model: of `MODELS`.
        steps, batch: of training; images a step.
        lr: the highest learning rate.
        evaluations: how many times AP is measured, evenly over the steps, the last at the end.
        weights: of another run to start from; "" for random ones.
        opts: Detectron2's keys and values in turn, on top of the model's configuration.
        label: which row of a table the run belongs to, if not that of its model.
        output: folder of what it writes.
    """

    model: str
    data: DataSet
    steps: int
    lr: float
    seed: int
    output: str
    batch: int = 4
    evaluations: int = 4
    weights: str = ""
    opts: tuple[Any, ...] = field(default=())
    label: str = ""

    def described(self) -> dict[str, Any]:
        """What stands in the record: plain types, no paths but the name of the weights' run."""
        return {
            "model": self.model,
            "label": self.label or self.model,
            "data": self.data.name,
            "steps": self.steps,
            "batch": self.batch,
            "lr": self.lr,
            "seed": self.seed,
            "weights": Path(self.weights).parent.name,
            "opts": [str(opt) for opt in self.opts],
        }


def with_output(run: Run, folder: Path) -> Run:
    """The run with a folder of its own below `folder`, named after what it is."""
    parts = (
        run.label or run.model,
        run.data.name,
        f"from-{Path(run.weights).parent.name}" if run.weights else "",
        f"{run.steps}-steps",
        f"lr-{run.lr:g}",
        f"seed-{run.seed}",
    )
    return replace(run, output=str(folder / "_".join(filter(None, parts))))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]
