#!/usr/bin/env python3
"""Trivial baselines on the data set `shapes`: what its masks are worth without any learning.

Pixels whose colour is far from the image's median colour are foreground; every connected component
is one detection. The threshold and the minimal area were chosen on shapes_train.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from queryinst.data.shapes import default_root

MIN_AREA = 60  # pixels of a component; smaller ones are lines, dots and noise
VARIANTS = {
    "box": "box-shaped masks, the most frequent class",
    "component": "component as mask, the most frequent class",
    "fill": "component as mask, class by the filled share of its box",
}


class Prior(NamedTuple):
    """What is read off the training annotations."""

    frequent_id: int  # category
    fill_by_id: dict[int, float]  # mean of area / area of the box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", default=default_root(), help="folder of data sets (default: %(default)s)"
    )
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument(
        "--threshold", type=float, default=90.0, help="distance in RGB (default: %(default)s)"
    )
    args = parser.parse_args()
    folder = Path(args.root) / "shapes"
    try:
        prior = read_prior(folder / "annotations" / "train.json")
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(folder / "annotations" / f"{args.split}.json"))
        components = {
            image["id"]: find_components(folder / args.split / image["file_name"], args.threshold)
            for image in coco.loadImgs(coco.getImgIds())
        }
    except OSError as error:
        raise SystemExit(f"shapes_baseline: {error}; run tools/make_shapes.py first") from None
    print(f"{'AP':>6} {'AP50':>6} {'AP75':>6}  {'box AP':>6}  shapes_{args.split}")
    rows = {
        description: [
            detect(mask, image_id, variant, prior)
            for image_id, masks in components.items()
            for mask in masks
        ]
        for variant, description in VARIANTS.items()
    }
    rows["for comparison: true boxes and classes, box-shaped masks"] = true_boxes(coco)
    for description, detections in rows.items():
        mask_ap, box_ap = (evaluate(coco, detections, kind) for kind in ("segm", "bbox"))
        print("{:6.1f} {:6.1f} {:6.1f}".format(*mask_ap), f" {box_ap[0]:6.1f}  {description}")


def read_prior(json_file: Path) -> Prior:
    annotations = json.loads(json_file.read_text())["annotations"]
    fills: dict[int, list[float]] = {}
    for annotation in annotations:
        _, _, width, height = annotation["bbox"]
        fills.setdefault(annotation["category_id"], []).append(
            annotation["area"] / (width * height)
        )
    frequent_id = max(fills, key=lambda category_id: len(fills[category_id]))
    return Prior(frequent_id, {key: sum(values) / len(values) for key, values in fills.items()})


def find_components(image_file: Path, threshold: float) -> list[np.ndarray]:
    """Masks (H, W) bool of the connected pixels that do not look like the background."""
    image = ndimage.uniform_filter(np.asarray(Image.open(image_file), dtype=float), (3, 3, 0))
    distance = np.sqrt(np.square(image - np.median(image, axis=(0, 1))).sum(2))
    labels, num_labels = ndimage.label(distance > threshold)
    masks = [labels == label for label in range(1, num_labels + 1)]
    return [mask for mask in masks if mask.sum() >= MIN_AREA]


def detect(mask: np.ndarray, image_id: int, variant: str, prior: Prior) -> dict[str, Any]:
    """One detection in COCO's format of results; large ones come first."""
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    box_mask = np.zeros_like(mask)
    box_mask[rows, columns] = True
    category_id, fill = prior.frequent_id, mask.sum() / box_mask.sum()
    if variant == "fill":
        category_id = min(prior.fill_by_id, key=lambda key: abs(prior.fill_by_id[key] - fill))
    shape = box_mask if variant == "box" else mask
    return {
        "image_id": image_id,
        "category_id": category_id,
        "score": float(mask.mean()),
        "segmentation": mask_util.encode(np.asfortranarray(shape, dtype=np.uint8)),
        "bbox": [
            columns.start,
            rows.start,
            columns.stop - columns.start,
            rows.stop - rows.start,
        ],
    }


def true_boxes(coco: COCO) -> list[dict[str, Any]]:
    """The annotations as detections whose masks fill their boxes: all is right but the masks."""
    detections = []
    for annotation in coco.loadAnns(coco.getAnnIds()):
        x, y, width, height = annotation["bbox"]
        box_mask = np.zeros(annotation["segmentation"]["size"], dtype=np.uint8, order="F")
        box_mask[y : y + height, x : x + width] = 1
        keys = ("image_id", "category_id", "bbox")
        detection = {key: annotation[key] for key in keys}
        detections.append(detection | {"score": 1.0, "segmentation": mask_util.encode(box_mask)})
    return detections


def evaluate(coco: COCO, detections: list[dict[str, Any]], kind: str) -> np.ndarray:
    """AP, AP50 and AP75 in percent; `kind` is "segm" or "bbox"."""
    # COCO decides by the first result's fields what all of them are.
    used = "segmentation" if kind == "segm" else "bbox"
    keys = ("image_id", "category_id", "score", used)
    results = [{key: detection[key] for key in keys} for detection in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[:3]


if __name__ == "__main__":
    main()
