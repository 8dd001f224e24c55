"""A tiny model, trained by the project's own optimizer, learns four pictures by heart."""

import contextlib
import io

import numpy as np
import torch
from pictures import SHAPES, SIDE
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def annotations(masks: torch.Tensor, classes: torch.Tensor, image: int) -> list[dict]:
    results = []
    for mask, label in zip(masks.numpy(), classes.tolist()):
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        area, box = float(rle.area(code)), rle.toBbox(code).tolist()
        results.append({"image_id": image, "category_id": label, "segmentation": code})
        results[-1] |= {"area": area, "bbox": box, "iscrowd": 0}
    return results


def mask_ap(batch: list[dict], predictions: list[dict]) -> float:
    """COCO's AP over IoU 0.50:0.95, in per cent."""
    truth, predicted = [], []
    for image, (x, prediction) in enumerate(zip(batch, predictions)):
        gt, instances = x["instances"], prediction["instances"]
        truth += annotations(gt.gt_masks.tensor, gt.gt_classes, image)
        detected = annotations(instances.pred_masks, instances.pred_classes, image)
        for row, score in zip(detected, instances.scores.tolist()):
            row["score"] = score
        predicted += detected
    for number, annotation in enumerate(truth):
        annotation["id"] = number + 1
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": SIDE, "width": SIDE} for image in range(len(batch))],
        "annotations": truth,
        "categories": [{"id": label, "name": str(label)} for label in range(len(SHAPES))],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predicted), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


def test_trainer_overfits_four_pictures(overfitted):
    batch, totals = overfitted.batch, overfitted.totals
    assert mask_ap(batch, overfitted.before) < 10
    assert totals[-1] < 0.2 * totals[0]
    with torch.no_grad():
        predictions = overfitted.model(batch)
    assert mask_ap(batch, predictions) > 90
