"""Pictures of three shapes, and a tiny model that learns them by heart."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from torch import nn

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


def draw(number: int, seed: int | None = None) -> dict:
    """A picture as a mapper gives it; what lies in front hides a part of what lies behind.

    Args:
        seed: of noise and colours; if not given the number.
    """
    rng = np.random.default_rng(number if seed is None else seed)
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
