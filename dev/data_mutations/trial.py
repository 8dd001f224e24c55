"""One mutated file through the check and, if accepted, what trains and evaluates on it."""

import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from dev.fuzz.outcomes import WrongResultError
from queryinst.data.checks import check_datasets
from queryinst.data.mapper import build_mapper
from queryinst.engine.evaluation import build_evaluator
from queryinst.testing import tiny_cfg

from . import valid_set
from .mutating import mutate
from .oracle import Object, Truth, read_truth

_NAME = "mutated"
_PERFECT = 99.99  # AP of perfect predictions, rounding aside


class Mutations:
    """`dev.fuzz.processes.Kind` says what the methods are for."""

    name = "mutations"

    def prepare(self, folder: Path) -> None:
        self._images = folder / "images"
        valid_set.write_images(self._images)

    def draw(self, seed: int) -> dict[str, str]:
        text, said = mutate(valid_set.make_content(), random.Random(f"data {seed}"))
        return {"text": text, "said": said}

    def names(self) -> Sequence[str]:
        return ("mutated.json", _NAME, *(f"{number}.png" for number in range(9)))

    def run(self, given: dict[str, str], folder: Path) -> None:
        """Raises what the check raises, and WrongResultError if it should have said something."""
        path = folder / "mutated.json"
        path.write_text(given["text"], encoding="utf-8")
        _register(path, self._images)
        cfg, warnings = _cfg(folder), _Warnings(logging.WARNING)
        logger = logging.getLogger("queryinst.data.checks")
        logger.addHandler(warnings)
        try:
            check_datasets(cfg, training=True)
        finally:
            logger.removeHandler(warnings)
        truth = read_truth(json.loads(given["text"]))
        problem = _compare_training(cfg, truth) or _compare_evaluation(cfg, truth)
        if problem and not warnings.num:
            raise WrongResultError(problem)


class _Warnings(logging.Handler):
    """Counts them; others, of Detectron2 about ids, do not count."""

    num = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.num += 1


def is_original(given: dict[str, str]) -> bool:
    """Whether an accepted file says what the valid one says, in whatever order."""
    truths = read_truth(json.loads(given["text"])), read_truth(valid_set.make_content())
    said = [{name: Counter(found) for name, found in x.objects.items()} for x in truths]
    return said[0] == said[1] and truths[0].classes == truths[1].classes


def _register(path: Path, images: Path) -> None:
    if _NAME in DatasetCatalog:
        DatasetCatalog.remove(_NAME)
        MetadataCatalog.remove(_NAME)
    register_coco_instances(_NAME, {}, str(path), str(images))


def _cfg(folder: Path) -> CfgNode:
    """A training and evaluation of the file, of images as they are."""
    cfg = tiny_cfg(DATASETS__TRAIN=(_NAME,), DATASETS__TEST=(_NAME,), OUTPUT_DIR=str(folder))
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (valid_set.HEIGHT,), "none"
    return cfg


def _compare_training(cfg: CfgNode, truth: Truth) -> str | None:
    mapper = build_mapper(cfg, is_train=True)
    for image in DatasetCatalog.get(_NAME):
        name = Path(image["file_name"]).name
        instances = mapper(image)["instances"]
        drawn = Counter(
            (truth.classes[label], mask.numpy().astype(np.uint8).tobytes())
            for label, mask in zip(instances.gt_classes, instances.gt_masks.tensor)
        )
        expected = Counter((x.name, x.mask) for x in truth.objects[name])
        if drawn != expected:
            return f"training sees {drawn.total()} objects in {name}, others than the file has"
    return None


def _compare_evaluation(cfg: CfgNode, truth: Truth) -> str | None:
    evaluator = build_evaluator(cfg, _NAME)
    evaluator.reset()
    for image in DatasetCatalog.get(_NAME):
        name = Path(image["file_name"]).name
        instances = _perfect(truth.objects[name], truth.size[name], truth.classes)
        evaluator.process([image], [{"instances": instances}])
    results = evaluator.evaluate()
    if not any(truth.objects.values()):
        return None
    for task in ("bbox", "segm"):
        if not results[task]["AP"] >= _PERFECT:
            return f"perfect predictions have a {task} AP of {results[task]['AP']}"
    return None


def _perfect(objects: list[Object], size: tuple[int, int], classes: list[str]) -> Instances:
    instances = Instances(size)
    boxes = torch.tensor([x.box for x in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks: Any = [np.frombuffer(x.mask, np.uint8).reshape(size) for x in objects]
    instances.pred_boxes = Boxes(boxes)
    instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size)).bool()
    instances.pred_classes = torch.tensor([classes.index(x.name) for x in objects], dtype=int)
    instances.scores = torch.linspace(1, 0.9, len(objects))
    return instances
