"""The objects of an image, true and predicted, and which of them belong together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

MATCH_IOU = 0.5  # least overlap of a prediction and the object it found
MIN_SCORE = 0.05  # what scores less is not looked at


@dataclass
class Object:
    """An annotated or predicted object of one image."""

    box: tuple[float, float, float, float]  # XYWH_ABS
    class_idx: int
    rle: dict[str, Any] | None = None  # the mask, COCO's compressed RLE; None for a box alone
    score: float | None = None  # of a prediction
    is_crowd: bool = False  # of an annotation; neither to be found nor wrong to find


@dataclass
class Scene:
    """One image with its objects.

    `found_by[i]` is the prediction that found truth i, or None. `role[j]` of prediction j is the
    index of the truth that it found; EXTRA or IGNORED.
    """

    file_name: str
    truths: list[Object]
    predictions: list[Object]
    found_by: list[int | None]
    role: list[int]

    EXTRA = -1  # found no object, or one that another prediction had found
    IGNORED = -2  # lies on a crowd

    def above(self, min_score: float) -> "Scene":
        """The scene with its predictions of at least this score; what they found stays."""
        num = sum((p.score or 0) >= min_score for p in self.predictions)  # they fall by score
        found_by = [j if j is not None and j < num else None for j in self.found_by]
        kept = self.predictions[:num]
        return Scene(self.file_name, self.truths, kept, found_by, self.role[:num])

    @property
    def num_objects(self) -> int:
        return sum(not truth.is_crowd for truth in self.truths)

    @property
    def num_found(self) -> int:
        return sum(prediction is not None for prediction in self.found_by)

    @property
    def num_extra(self) -> int:
        return self.role.count(self.EXTRA)


def build_scenes(
    dataset: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    id_map: Mapping[int, int],
) -> list[Scene]:
    """One scene for each image of a data set.

    Args:
        dataset: Detectron2's dicts.
        predictions: of COCO's results format; those of hardly any score are left out.
        id_map: the category ids of `predictions` -> class index.
    """
    by_image = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] >= MIN_SCORE:
            by_image[prediction["image_id"]].append(_predicted(prediction, id_map))
    scenes = []
    for image in dataset:
        size = (image["height"], image["width"])
        truths = [_annotated(annotation, size) for annotation in image.get("annotations", ())]
        found = sorted(by_image[image["image_id"]], key=lambda obj: -(obj.score or 0))
        scenes.append(Scene(image["file_name"], truths, found, *match(truths, found)))
    return scenes


def best_threshold(scenes: Sequence[Scene]) -> float:
    """The score from which on predictions are worth showing: where their F1 is highest.

    The scores of a model that was trained for a short time are low, and no fixed threshold suits
    all. F1 is the harmonic mean of precision and recall at an overlap of MATCH_IOU.
    """
    num_objects = sum(scene.num_objects for scene in scenes)
    best, best_f1 = 0.5, 0.0
    for percent in range(95, round(MIN_SCORE * 100) - 1, -5):
        kept = [scene.above(percent / 100) for scene in scenes]
        num_found = sum(scene.num_found for scene in kept)
        num_counted = num_found + sum(scene.num_extra for scene in kept)
        f1 = 2 * num_found / max(num_counted + num_objects, 1)
        if f1 > best_f1:
            best, best_f1 = percent / 100, f1
    return best


def match(truths: list[Object], predictions: list[Object]) -> tuple[list[int | None], list[int]]:
    """Assign predictions, by falling score, to objects of their class, as COCO's evaluation does.

    Returns:
        `Scene.found_by` and `Scene.role`.
    """
    found_by: list[int | None] = [None] * len(truths)
    role = [Scene.EXTRA] * len(predictions)
    ious = _ious(truths, predictions)  # (P, T)
    for j, prediction in enumerate(predictions):
        best, best_iou = None, MATCH_IOU
        for i, truth in enumerate(truths):
            if truth.class_idx != prediction.class_idx or ious[j, i] < best_iou:
                continue
            if truth.is_crowd:
                role[j] = Scene.IGNORED
            elif found_by[i] is None:
                best, best_iou = i, ious[j, i]
        if best is not None:
            found_by[best], role[j] = j, best
    return found_by, role


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Polygons or RLE of COCO's JSON as compressed RLE; None if there is nothing of an area."""
    if isinstance(segmentation, Mapping):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(dict(segmentation), height, width)
        return dict(segmentation)
    polygons = [list(polygon) for polygon in segmentation or () if len(polygon) >= 6]
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width)) if polygons else None


def _predicted(prediction: Mapping[str, Any], id_map: Mapping[int, int]) -> Object:
    category, segmentation = prediction["category_id"], prediction.get("segmentation")
    return Object(
        box=tuple(prediction["bbox"]),
        class_idx=id_map.get(category, category),
        rle=dict(segmentation) if segmentation else None,
        score=prediction["score"],
    )


def _annotated(annotation: Mapping[str, Any], size: tuple[int, int]) -> Object:
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return Object(
        box=tuple(box),
        class_idx=annotation["category_id"],
        rle=to_rle(annotation.get("segmentation"), *size),
        is_crowd=bool(annotation.get("iscrowd", 0)),
    )


def _ious(truths: list[Object], predictions: list[Object]) -> np.ndarray:
    """(P, T): by masks where all have them, else by boxes; of a crowd, COCO's one-sided overlap."""
    if not truths or not predictions:
        return np.zeros((len(predictions), len(truths)))
    crowds = [int(truth.is_crowd) for truth in truths]
    masks = [[obj.rle for obj in objects] for objects in (predictions, truths)]
    if all(rle is not None for rles in masks for rle in rles):
        return np.asarray(mask_util.iou(*masks, crowds))
    boxes = [np.array([obj.box for obj in objects], float) for objects in (predictions, truths)]
    return np.asarray(mask_util.iou(*boxes, crowds))
