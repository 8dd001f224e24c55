"""Measures one case: time and memory undisturbed, then the parts."""

from dataclasses import asdict, dataclass, field
from typing import Any

from detectron2.config import CfgNode

from queryinst.devices import resolve_device
from queryinst.environment import describe_hardware, describe_versions

from .measuring import Measurement, measure
from .parts import measure_parts
from .subjects import build_subject

TASKS = ("inference", "training")
# Defaults of batch size, size and output size by task.
_DEFAULTS: dict[str, tuple[int, tuple[int, int]]] = {
    "inference": (1, (800, 1199)),
    "training": (2, (512, 672)),
}


@dataclass(frozen=True)
class Case:
    """What to run.

    Attributes:
        task: of `TASKS`.
        batch: images; 0 for 1 at inference and 2 in training.
        size: height, width of the network's input in pixels; None for 800x1199, in training
            512x672.
        output_size: height, width that masks are pasted into.
        instances: objects of each image in training.
        parts: runs that are measured by part; 0 leaves the parts out.
    """

    task: str
    batch: int = 0
    size: tuple[int, int] | None = None
    output_size: tuple[int, int] = (427, 640)
    instances: int = 7
    warmup: int = 1
    repeats: int = 5
    parts: int = 2

    def filled(self) -> "Case":
        """With the task's defaults.

        Raises:
            ValueError: impossible values.
        """
        if self.task not in TASKS:
            raise ValueError(f"{self.task!r} is none of {', '.join(TASKS)}; set --task")
        batch, size = _DEFAULTS[self.task]
        values = asdict(self) | {"batch": self.batch or batch, "size": self.size or size}
        case = Case(**values)
        if case.batch < 1 or case.instances < 0 or case.parts < 0:
            raise ValueError(
                f"{self.batch=} must be >= 1, {self.instances=} and {self.parts=} >= 0"
            )
        return case


@dataclass
class Result:
    """What was measured; seconds and bytes."""

    case: Case
    measurement: Measurement
    parts: dict[str, float]
    model: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    output: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        return self.case.batch / self.measurement.median

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {**vars(self), "case": asdict(self.case)}
        return values | {
            "measurement": self.measurement.to_dict(),
            "images_per_second": self.images_per_second,
        }


def run_case(cfg: CfgNode, case: Case) -> Result:
    """Measure.

    Args:
        cfg: any of this project's; MODEL.WEIGHTS "" for the model's initial weights.

    Raises:
        ValueError: impossible values.
    """
    case = case.filled()
    assert case.size is not None
    device = resolve_device(cfg, training=False)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    subject = build_subject(
        cfg,
        case.task,
        num_images=case.batch,
        size=case.size,
        output_size=case.output_size,
        num_instances=case.instances,
    )
    measurement, last = measure(
        subject.run, device=device, warmup=case.warmup, repeats=case.repeats
    )
    parts = measure_parts(subject, device=device, repeats=case.parts) if case.parts else {}
    return Result(
        case,
        measurement,
        parts,
        _describe_model(cfg),
        describe_hardware(device),
        describe_versions(),
        _describe_output(case.task, last),
    )


def _describe_model(cfg: CfgNode) -> dict[str, Any]:
    return {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "queries": cfg.MODEL.QUERYINST.NUM_QUERIES,
        "classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "device": cfg.MODEL.DEVICE,
        "weights": cfg.MODEL.WEIGHTS,
        "amp": cfg.SOLVER.AMP.ENABLED,
    }


def _describe_output(task: str, last: Any) -> dict[str, float]:
    """Enough to see that something sensible was computed."""
    if task == "training":
        return {"total_loss": sum(last.values())}
    instances = [output["instances"] for output in last]
    unique = sum(len(set(image.query_idx.tolist())) for image in instances)
    return {"detections": sum(map(len, instances)), "unique_queries": unique}
