"""Evaluators by the data set's type, and the results' file and table."""

import json
import logging
import math
import os
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from tabulate import tabulate

logger = logging.getLogger(__name__)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator that the data set's ``evaluator_type`` asks for.

    Its files go to OUTPUT_DIR/inference/<data set>.

    Raises:
        ImportError: the package that this data set's evaluation needs is not installed.
        ValueError: a type that there is no evaluator for.
    """
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    if kind == "coco":
        return COCOEvaluator(dataset_name, tasks=tasks, output_dir=folder)
    if kind == "lvis":
        _require("lvis", dataset_name)
        from detectron2.evaluation import LVISEvaluator

        return LVISEvaluator(dataset_name, tasks=tasks, output_dir=folder)
    if kind == "cityscapes_instance":
        _require("cityscapesscripts", dataset_name)
        from detectron2.evaluation import CityscapesInstanceEvaluator

        return CityscapesInstanceEvaluator(dataset_name)
    raise ValueError(
        f"no evaluator for the data set {dataset_name!r} of type {kind!r}; "
        "its metadata's evaluator_type must be coco, lvis or cityscapes_instance"
    )


def _require(package: str, dataset_name: str) -> None:
    try:
        __import__(package)
    except ImportError:
        raise ImportError(
            f"evaluating {dataset_name!r} needs the package {package}; pip install {package}"
        ) from None


def write_results(output_dir: str, results: Mapping[str, Mapping]) -> str:
    """Write OUTPUT_DIR/results.json, at once or not at all.

    Args:
        results: data set -> task -> metric -> value.

    Returns:
        The file's path. What is not a number becomes null.
    """
    path = os.path.join(output_dir, "results.json")
    plain = {
        name: {task: {k: _plain(v) for k, v in metrics.items()} for task, metrics in tasks.items()}
        for name, tasks in results.items()
    }
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as file:
        json.dump(plain, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)
    return path


def _plain(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def results_table(results: Mapping[str, Mapping]) -> str:
    """A table of all data sets: AP, AP50, ... and the AP of each class, in percent."""
    rows = []
    for dataset_name, tasks in results.items():
        for task, metrics in tasks.items():
            for metric, value in metrics.items():
                number = "-" if value is None or not math.isfinite(value) else f"{value:.2f}"
                rows.append([dataset_name, task, metric, number])
    headers = ["data set", "task", "metric", "value"]
    return tabulate(rows, headers, tablefmt="pipe", colalign=("left", "left", "left", "right"))


def with_device(cfg: CfgNode, *, training: bool) -> CfgNode:
    """`cfg` with a device that is there; evaluation falls back to the CPU, training does not."""
    from ..devices import resolve_device

    device = str(resolve_device(cfg, training=training))
    if device == cfg.MODEL.DEVICE:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg


def describe_batch(batch: list[dict]) -> str:
    """Files, image sizes and number of instances of a training batch, in one line."""
    files = ", ".join(str(x.get("file_name", "?")) for x in batch)
    sizes = ", ".join("x".join(map(str, torch.as_tensor(x["image"]).shape[-2:])) for x in batch)
    num = sum(len(x["instances"]) for x in batch if "instances" in x)
    return f"images {files}; {sizes} pixels; {num} instances"
