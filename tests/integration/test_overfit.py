"""A tiny model, trained by the project's own optimizer, learns four pictures by heart."""

import contextlib
import io

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from queryinst.solver import build_optimizer
from queryinst.testing import tiny_cfg

SIDE, NUM_STEPS = 64, 240
CONFIG = {
    "MODEL__BACKBONE__FREEZE_AT": 0,
    "MODEL__BACKBONE__NORM_EVAL": False,  # random weights come without statistics
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 16,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 32,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 8,
    "MODEL__FPN__OUT_CHANNELS": 32,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 32,
    "MODEL__QUERYINST__EMBED_DIM": 32,
    "MODEL__QUERYINST__FFN_DIM": 64,
    "MODEL__QUERYINST__DYNAMIC_DIM": 8,
    "SOLVER__BASE_LR": 2e-3,
    "SOLVER__BACKBONE_MULTIPLIER": 1.0,
    "SOLVER__CLIP_GRADIENTS__ENABLED": True,
    "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
    "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 1.0,
}
Y, X = np.mgrid[:SIDE, :SIDE] + 0.5


def disc(x: int, y: int, radius: int) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def square(x: int, y: int, radius: int) -> np.ndarray:
    return (abs(X - x) < radius) & (abs(Y - y) < radius)


def triangle(x: int, y: int, radius: int) -> np.ndarray:
    return (Y < y + radius) & (2 * abs(X - x) < Y - y + radius)


# class, centre and half the height of what each picture shows, from back to front
SHAPES = (disc, square, triangle)
PICTURES = [
    [(0, 20, 22, 16), (1, 46, 44, 14)],
    [(2, 24, 30, 20), (0, 48, 18, 12)],
    [(1, 18, 40, 15), (2, 44, 26, 18), (0, 46, 50, 11)],
    [(2, 40, 36, 24)],
]


def draw(number: int) -> dict:
    """A picture as a mapper gives it; what lies in front hides a part of what lies behind."""
    rng = np.random.default_rng(number)
    image = rng.normal(90, 20, (3, SIDE, SIDE))
    masks: list[np.ndarray] = []
    for label, *place in PICTURES[number]:
        shape = SHAPES[label](*place)
        masks = [mask & ~shape for mask in masks] + [shape]
        image[:, shape] = rng.uniform(130, 250, (3, 1)) + rng.normal(0, 10, (3, shape.sum()))
    instances = Instances((SIDE, SIDE))
    instances.gt_masks = BitMasks(np.stack(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor([label for label, *_ in PICTURES[number]])
    image = torch.from_numpy(image.clip(0, 255).astype(np.uint8))
    return {"image": image, "instances": instances, "height": SIDE, "width": SIDE}


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


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: list[dict]) -> list[float]:
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], NUM_STEPS, pct_start=0.1
    )
    totals = []
    with EventStorage(0):
        for _ in range(NUM_STEPS):
            total = sum(model(batch).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            schedule.step()
            totals.append(total.item())
    return totals


def test_trainer_overfits_four_pictures():
    torch.manual_seed(0)
    cfg = tiny_cfg(**CONFIG)
    model, batch = build_model(cfg).train(), [draw(number) for number in range(len(PICTURES))]
    with torch.no_grad():
        assert mask_ap(batch, model.eval()(batch)) < 10
    totals = train(model.train(), build_optimizer(cfg, model), batch)
    assert totals[-1] < 0.2 * totals[0]
    with torch.no_grad():
        predictions = model.eval()(batch)
    assert mask_ap(batch, predictions) > 90
