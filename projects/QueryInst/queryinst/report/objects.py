"""The objects of an image, true and predicted, and which of them belong together."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.checks import check_annotations
from ..data.coco_ids import number_ids
from ..data.instance_checks import describe
from ..data.mask_bounds import to_rle

MATCH_IOU = 0.5  # least overlap of a prediction and the object that it finds
MIN_SCORE = 0.05  # predictions of less are left out

Annotation = dict[str, Any]  # with COCO's keys; "segmentation", where there is one, is RLE


@dataclass
class Scene:
    """One image with its objects.

    A prediction's "match" is the id of the truth that it finds; None if it finds none, or one that
    a prediction of higher score finds. A crowd counts as no object, and to match it as no mistake.
    """

    file_name: str
    truths: list[Annotation]
    predictions: list[Annotation]  # by falling score

    def above(self, min_score: float) -> "Scene":
        """The scene with its predictions of at least this score; their matches stay."""
        kept = [p for p in self.predictions if p["score"] >= min_score]
        return replace(self, predictions=kept)

    def is_matched(self, truth: Annotation) -> bool:
        return any(prediction["match"] == truth["id"] for prediction in self.predictions)

    @property
    def num_objects(self) -> int:
        return sum(not truth["iscrowd"] for truth in self.truths)

    @property
    def num_matched(self) -> int:
        return sum(self.is_matched(truth) for truth in self.truths if not truth["iscrowd"])

    @property
    def num_extra(self) -> int:
        return sum(prediction["match"] is None for prediction in self.predictions)


def build_scenes(
    dataset_name: str, predictions: Iterable[Annotation], label: str, max_pixels: int
) -> tuple[list[Scene], dict[int, str]]:
    """One scene for each image of a registered data set, and its category ids' names.

    Args:
        predictions: of COCO's results format; those of hardly any score are left out.
        label: what messages call them: their file.
        max_pixels: an image has at most; INPUT.MAX_PIXELS.

    Raises:
        ValueError: the data set is not registered, or a mask of it or of a prediction is malformed.
        FileNotFoundError: a file of the data set is missing.
    """
    if dataset_name not in DatasetCatalog:
        raise ValueError(
            f"the data set {dataset_name!r} of results.json is not registered; add"
            f" --dataset {dataset_name} JSON IMAGE_ROOT"
        )
    try:
        check_annotations(dataset_name, max_pixels)  # before Detectron2 hands masks to C code
        coco, numbers = number_ids(convert_to_coco_dict(dataset_name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"data set {dataset_name!r}: {error.filename} is missing"
        ) from error
    kept = [
        {**p, "image_id": numbers[p["image_id"]]}
        for p in predictions
        if p["score"] >= MIN_SCORE and p["image_id"] in numbers
    ]
    unmatched = {"match": None, "area": 0}  # pycocotools wants an area, whatever it is
    kept = [{**p, **unmatched, "id": number} for number, p in enumerate(kept, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth_index = _index(coco, coco.get("annotations", []), f"data set {dataset_name!r}")
        prediction_index = _index(coco, kept, label)
        _match(truth_index, prediction_index)
    scenes = []
    for image in coco["images"]:
        predicted = sorted(prediction_index.imgToAnns[image["id"]], key=lambda p: -p["score"])
        scenes.append(Scene(image["file_name"], truth_index.imgToAnns[image["id"]], predicted))
    return scenes, {category["id"]: category["name"] for category in coco["categories"]}


def best_threshold(scenes: Sequence[Scene]) -> float:
    """The score at which precision and recall balance best: where F1 at MATCH_IOU is highest.

    The scores of a model that was trained for a short time are low, and no fixed threshold suits
    all.
    """
    num_objects = sum(scene.num_objects for scene in scenes)
    best, best_f1 = 0.5, 0.0
    for percent in range(95, round(MIN_SCORE * 100) - 1, -5):
        kept = [scene.above(percent / 100) for scene in scenes]
        num_matched = sum(scene.num_matched for scene in kept)
        num_counted = num_matched + sum(scene.num_extra for scene in kept)
        f1 = 2 * num_matched / max(num_counted + num_objects, 1)
        if f1 > best_f1:
            best, best_f1 = percent / 100, f1
    return best


def _index(coco: Mapping[str, Any], annotations: list[Annotation], label: str) -> COCO:
    """pycocotools' index of annotations of the images that the data set has, masks as RLE."""
    index = COCO()
    images = {image["id"]: image for image in coco["images"]}
    annotations = [a for a in annotations if a["image_id"] in images]
    index.dataset = {**coco, "annotations": annotations}
    index.createIndex()
    for annotation in annotations:
        if annotation.get("segmentation"):
            image = images[annotation["image_id"]]
            place = f"{label}: {describe(annotation, image)}"
            annotation["segmentation"] = to_rle(
                annotation["segmentation"], image["height"], image["width"], place
            )
    return index


def _match(truths: COCO, predictions: COCO) -> None:
    """Set each prediction's "match" as COCO's evaluation does: by masks where all have them."""
    annotations = [*truths.anns.values(), *predictions.anns.values()]
    has_masks = all(annotation.get("segmentation") for annotation in annotations)
    evaluation = COCOeval(truths, predictions, "segm" if has_masks else "bbox")
    evaluation.params.iouThrs = [MATCH_IOU]
    evaluation.params.areaRng = [[0, float("inf")]]
    evaluation.params.maxDets = [max(len(predictions.anns), 1)]
    evaluation.evaluate()
    for result in filter(None, evaluation.evalImgs):
        for id, truth_id in zip(result["dtIds"], result["dtMatches"][0]):
            predictions.anns[id]["match"] = int(truth_id) or None
