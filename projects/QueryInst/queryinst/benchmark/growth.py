"""How time and memory grow with what a user chooses, one thing at a time."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from detectron2.config import CfgNode

from .main import Case, Result, run_case
from .parts import OTHER

SMALL = 0.03  # of the time: parts below it are not judged
MARGIN = 1.15  # noise of the growth of a part


@dataclass(frozen=True)
class Axis:
    """What varies, and the values.

    Attributes:
        key: of the configuration that takes the value; "" if `Case` takes it.
        field: of `Case` that takes it: "batch", "instances", or "size" for the short side.
        size, queries: held fixed; None for the task's and the configuration's default.
    """

    name: str
    task: str
    values: tuple[int, ...]
    key: str = ""
    field: str = ""
    size: tuple[int, int] | None = None
    queries: int | None = None
    batch: int = 1

    @property
    def slug(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.task}"

    def case(self, value: int) -> Case:
        """What to run at a value; few repetitions, as there are many values."""
        size, batch, instances = self.size, self.batch, Case.instances
        if self.field == "size":
            size = (value, value * 3 // 2)
        elif self.field == "batch":
            batch = value
        elif self.field == "instances":
            instances = value
        repeats = 2 if self.task == "inference" else 1
        return Case(
            self.task,
            batch=batch,
            size=size,
            instances=instances,
            warmup=1,
            repeats=repeats,
            parts=1,
        )

    def opts(self, value: int) -> list:
        opts: list = [self.key, value] if self.key else []
        return opts + (["MODEL.QUERYINST.NUM_QUERIES", self.queries] if self.queries else [])

    def work(self, value: int) -> int:
        """What the cost may be proportional to."""
        return value**2 if self.field == "size" else value


_QUERIES, _CLASSES = "MODEL.QUERYINST.NUM_QUERIES", "MODEL.ROI_HEADS.NUM_CLASSES"
AXES = (
    Axis("queries", "inference", (50, 100, 300, 500, 1000), key=_QUERIES),
    Axis("queries", "training", (50, 100, 300, 1000), key=_QUERIES),
    Axis("image size", "inference", (320, 480, 800, 1120, 1600), field="size"),
    Axis("image size", "training", (320, 640, 960), field="size"),
    Axis("batch size", "inference", (1, 2, 4, 8), field="batch", size=(480, 640)),
    Axis("batch size", "training", (1, 2, 4), field="batch", size=(320, 416)),
    Axis("instances", "training", (1, 10, 100, 300), field="instances", queries=300),
    Axis("classes", "inference", (1, 80, 1203), key=_CLASSES),
    Axis("classes", "training", (1, 80, 1203), key=_CLASSES),
)


@dataclass
class Growth:
    """One axis, measured: a result for each of its values."""

    axis: Axis
    results: list[Result]

    def faster_than_work(self) -> dict[str, float]:
        """Parts whose time grew more than the work did, and by how many times."""
        first, last = self.results[0].parts, self.results[-1].parts
        values = self.axis.values
        work = self.axis.work(values[-1]) / self.axis.work(values[0])
        whole = sum(last.values())
        found = {}
        for part, seconds in last.items():
            if part == OTHER or seconds < SMALL * whole or not first.get(part):
                continue
            factor = seconds / first[part] / work
            if factor > MARGIN:
                found[part] = factor
        return found


def measure_growth(
    cfg: CfgNode, axes: tuple[Axis, ...], notify: Callable[[str], None], *, own_process: bool = True
) -> Iterator[Growth]:
    """Measure each value of each axis.

    Args:
        cfg: what all values have in common.
        notify: told what comes next.
        own_process: each value in a new one, so that no memory of the last is in the way.

    Raises:
        ValueError: impossible values.
    """
    for axis in axes:
        results = []
        for value in axis.values:
            notify(f"{axis.task}: {axis.name} {value}")
            point = cfg.clone()
            point.defrost()
            point.merge_from_list(axis.opts(value))
            results.append((_run_apart if own_process else run_case)(point, axis.case(value)))
        yield Growth(axis, results)


def _run_apart(cfg: CfgNode, case: Case) -> Result:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(run_case, cfg, case).result()
