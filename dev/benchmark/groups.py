"""What compare_with_mmdet.py runs, and what the ratios are to reach."""

from typing import NamedTuple

UNIQUE_QUERIES = (50, 70)  # of 100 queries, that the 100 detections come from


class Side(NamedTuple):
    """One of the programs that run in turn.

    Attributes:
        side: the module SIDE_side.py runs it.
        opts: of this project's configuration.
    """

    name: str
    side: str
    opts: tuple = ()


class Row(NamedTuple):
    """A line of the table of ratios: a side of the group to another.

    Attributes:
        reference: the other one.
        time_floor, memory_floor: what the ratios may be at most; None where nothing is asked.
        aim: of the time.
    """

    title: str
    side: str
    time_floor: float | None = None
    memory_floor: float | None = None
    aim: float | None = None
    reference: str = "MMDetection"


class Group(NamedTuple):
    """Sides that run in turn on the same inputs."""

    task: str
    queries: int
    sides: tuple[Side, ...]
    rows: tuple[Row, ...]


_PARTS = ("backbone", "box_heads", "mask_heads")
MMDET, OURS = Side("MMDetection", "mmdet"), Side("QueryInst", "queryinst")
OURS_300 = Side("QueryInst, 300 kept", "queryinst", ("TEST.DETECTIONS_PER_IMAGE", 300))
OURS_CHECKPOINTING = Side(
    "QueryInst, checkpointing", "queryinst", ("MODEL.QUERYINST.ACTIVATION_CHECKPOINTING", _PARTS)
)
MASK_RCNN = Side("Detectron2's Mask R-CNN R-50-FPN", "maskrcnn")

GROUPS = {
    "inference-100": Group(
        "inference",
        100,
        (MMDET, OURS, MASK_RCNN),
        (
            Row("inference, 100 queries", OURS.name, 0.72, 0.95, 0.60),
            Row("inference, 100 queries, to Mask R-CNN", OURS.name, reference=MASK_RCNN.name),
        ),
    ),
    "inference-300": Group(
        "inference",
        300,
        (MMDET, OURS, OURS_300),
        (
            Row("inference, 300 queries", OURS.name, 0.50, 0.90, 0.42),
            Row("inference, 300 queries, 300 kept on both sides", OURS_300.name, aim=0.60),
        ),
    ),
    "training-100": Group(
        "training",
        100,
        (MMDET, OURS, OURS_CHECKPOINTING, MASK_RCNN),
        (
            Row("training, 100 queries", OURS.name, 0.65, 1.0, 0.55),
            Row("training, 100 queries, checkpointing", OURS_CHECKPOINTING.name, memory_floor=0.8),
            Row("training, 100 queries, to Mask R-CNN", OURS.name, reference=MASK_RCNN.name),
        ),
    ),
    "training-300": Group(
        "training",
        300,
        (MMDET, OURS, OURS_CHECKPOINTING),
        (
            Row("training, 300 queries", OURS.name, 0.60, 0.95, 0.42),
            Row("training, 300 queries, checkpointing", OURS_CHECKPOINTING.name, memory_floor=0.75),
        ),
    ),
}
