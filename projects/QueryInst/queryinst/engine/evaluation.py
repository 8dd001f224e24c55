"""Evaluators by the data set's type, and the results' file and tables."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import IO, Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from tabulate import tabulate

from ..checkpoint.files import write_atomically
from .coco_evaluation import TimedCOCOEvaluator

# Types whose evaluator needs another package.
_PACKAGES = {"lvis": "lvis", "cityscapes_instance": "cityscapesscripts"}
_LVIS_LIMIT = 300  # detections of an image that LVIS's AP counts

Results = Mapping[str, Mapping[str, Mapping[str, float]]]  # data set -> task -> metric -> value


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator for the data set's ``evaluator_type``.

    Its files go to OUTPUT_DIR/inference/<data set>. AP counts all of TEST.DETECTIONS_PER_IMAGE if
    they are more than the evaluation's own limit.

    Raises:
        ValueError, ImportError: as `evaluator_type`.
    """
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    kind = evaluator_type(cfg, dataset_name)
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    if kind == "lvis":
        from detectron2.evaluation import LVISEvaluator

        more = {"max_dets_per_image": limit} if limit > _LVIS_LIMIT else {}
        return LVISEvaluator(dataset_name, tasks=tasks, output_dir=folder, **more)
    if kind == "cityscapes_instance":
        from detectron2.evaluation import CityscapesInstanceEvaluator

        return CityscapesInstanceEvaluator(dataset_name)
    # A JSON that an earlier run made of the data set may hold other data.
    return TimedCOCOEvaluator(
        dataset_name,
        tasks=tasks,
        output_dir=folder,
        allow_cached_coco=False,
        max_detections=limit,
        num_queries=cfg.MODEL.QUERYINST.NUM_QUERIES,
    )


def evaluator_type(cfg: CfgNode, dataset_name: str) -> str:
    """ "coco", "lvis" or "cityscapes_instance"; the first if the data set does not say.

    Raises:
        ValueError: there is no evaluator for the type, or it needs masks and MASK_ON is False.
        ImportError: the package for this evaluation is not installed.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None) or "coco"
    if kind != "coco" and kind not in _PACKAGES:
        raise ValueError(
            f"no evaluator for the data set {dataset_name!r} of type {kind!r}; its metadata's "
            f"evaluator_type must be one of coco, {', '.join(_PACKAGES)}"
        )
    if kind == "cityscapes_instance" and not cfg.MODEL.MASK_ON:
        raise ValueError(f"evaluating {dataset_name!r} needs masks; set MODEL.MASK_ON True")
    if package := _PACKAGES.get(kind):
        try:
            __import__(package)
        except ImportError:
            raise ImportError(
                f"evaluating {dataset_name!r} needs the package {package}; pip install {package}"
            ) from None
    return kind


def by_dataset(cfg: CfgNode, results: Mapping) -> Results:
    """What `Trainer.test` returns, with the data set's name even if there is only one."""
    return {cfg.DATASETS.TEST[0]: results} if len(cfg.DATASETS.TEST) == 1 else results


def best_metric(cfg: CfgNode) -> str:
    """The name under which EvalHook stores TEST.BEST_METRIC, of the first test set.

    A box detector has no "segm": its "bbox" counts instead.
    """
    metric = cfg.TEST.BEST_METRIC
    if not cfg.MODEL.MASK_ON:
        metric = metric.replace("segm/", "bbox/")
    return metric if len(cfg.DATASETS.TEST) == 1 else f"{cfg.DATASETS.TEST[0]}/{metric}"


def known_metrics(cfg: CfgNode, dataset_name: str, class_names: Sequence[str]) -> list[str]:
    """What the data set's evaluator measures, as "task/metric", the common ones first."""
    kind = evaluator_type(cfg, dataset_name)
    if kind == "cityscapes_instance":
        return ["segm/AP", "segm/AP50"]
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    if kind == "lvis":
        metrics += ["APr", "APc", "APf"]
    elif len(class_names) > 1:
        metrics += [f"AP-{name}" for name in class_names]
    tasks = ("segm", "bbox") if cfg.MODEL.MASK_ON else ("bbox",)
    return [f"{task}/{metric}" for metric in metrics for task in tasks]


def write_results(output_dir: str, results: Results) -> str:
    """Write OUTPUT_DIR/results.json whole or not at all; NaN becomes null.

    Returns:
        The file's path.
    """
    path = os.path.join(output_dir, "results.json")
    plain = {
        name: {task: {k: _plain(v) for k, v in metrics.items()} for task, metrics in tasks.items()}
        for name, tasks in results.items()
    }
    write_json(path, plain)
    return path


def write_json(path: str, content: Any) -> None:
    """Write a file of JSON whole or not at all.

    Raises:
        OSError: as `write_atomically`.
    """

    def write(file: IO[bytes]) -> None:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())

    write_atomically(path, write)


def _plain(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def results_table(results: Results) -> str:
    """AP, AP50 and AP75 of boxes and masks, then the AP of each class, all in percent."""
    names = {"bbox": "box", "segm": "mask", "bbox_TTA": "box TTA", "segm_TTA": "mask TTA"}
    tasks = [task for task in names if any(task in by_task for by_task in results.values())]
    summary = ("AP", "AP50", "AP75")
    headers = ["data set"] + [f"{names[task]} {metric}" for task in tasks for metric in summary]
    rows = [
        [name] + [_cell(by_task, task, metric) for task in tasks for metric in summary]
        for name, by_task in results.items()
    ]
    tables = [_tabulate(headers, rows, num_texts=1)]
    headers = ["data set", "class"] + [f"{names[task]} AP" for task in tasks]
    rows = [
        [name, class_name] + [_cell(by_task, task, f"AP-{class_name}") for task in tasks]
        for name, by_task in results.items()
        for class_name in _class_names(by_task)
    ]
    if rows:
        tables.append(_tabulate(headers, rows, num_texts=2))
    return "\n\n".join(tables)


def _class_names(tasks: Mapping[str, Mapping[str, float]]) -> list[str]:
    metrics = next(iter(tasks.values()), {})
    return [metric.removeprefix("AP-") for metric in metrics if metric.startswith("AP-")]


def _cell(tasks: Mapping[str, Mapping[str, float]], task: str, metric: str) -> str:
    value = tasks.get(task, {}).get(metric, math.nan)
    return f"{value:.1f}" if math.isfinite(value) else "-"


def _tabulate(headers: list[str], rows: list[list[str]], num_texts: int) -> str:
    align = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
