"""Inputs at the edges of single functions, from numpy's seeds: equal on both sides, float64."""

import numpy as np
from parity_inputs import Array

IMAGE_SIZE = (96, 128)  # height, width
COST_IMAGE_SIZE = (333, 450)
STRIDES = (4, 8, 16, 32)
# Sides of square boxes at which the pyramid level changes, and how far from there, relative.
SWITCHES = (112.0, 224.0, 448.0)
OFFSETS = (-1e-2, -1e-5, -1e-6, -4e-7, -2e-7, -1e-7, -3e-8, -3e-9, 0.0, 1e-9, 1e-5, 1e-2)


def decode() -> tuple[Array, Array]:
    """Boxes (200, 4), some inside out, and deltas beyond the clamp on both sides."""
    rng = np.random.RandomState(31)
    boxes = rng.uniform(0, 300, (200, 4))
    boxes[:, 2:] += boxes[:, :2] - 20
    return boxes, rng.standard_normal((200, 4)) * 6


def costs() -> dict[str, Array]:
    """50 queries, 9 objects; certain scores, boxes without area, among them two equal ones."""
    rng = np.random.RandomState(32)
    logits = rng.standard_normal((50, 7)) * 30
    logits[0], logits[1] = 80, -80
    boxes = decode()[0][:50]
    gt_boxes = rng.uniform(0, 200, (9, 4))
    gt_boxes[:, 2:] += gt_boxes[:, :2]
    gt_boxes[3] = boxes[4] = (10, 10, 10, 30)
    classes = rng.randint(0, 7, 9)
    return {"logits": logits, "boxes": boxes, "gt_boxes": gt_boxes, "classes": classes}


def mask_targets() -> tuple[Array, Array, Array]:
    """Masks (3, H, W), boxes (9, 4) and which mask belongs to each.

    Boxes inside, across the border, outside on either side, without area, inside out, of a pixel.
    """
    height, width = IMAGE_SIZE
    y, x = np.mgrid[:height, :width]
    disc, bars = (x - 40) ** 2 + (y - 50) ** 2 < 900, (x // 16 % 2 == 0) & (y > 60)
    boxes = [
        (10, 20, 70, 80),
        (-30, -20, 60, 130),
        (200, 10, 260, 60),
        (100, 50, 180, 95),
        (50, 50, 50, 80),
        (60, 70, 40, 30),
        (-50, -50, -10, -10),
        (99.5, 3.25, 128, 96),
        (3, 3, 4, 4),
    ]
    return np.stack([disc, bars, x > 100]), np.array(boxes), np.array([0, 1, 2, 2, 0, 0, 1, 2, 1])


def pooling() -> tuple[list[Array], Array]:
    """Features (2, 3, H, W) of four levels; RoIs (R, 5) around the switches, then odd ones."""
    rng = np.random.RandomState(33)
    features = [rng.standard_normal((2, 3, 512 // s, 512 // s)) for s in STRIDES]
    rois = [
        (0, 20, 30, 20 + side * (1 + offset), 30 + side * (1 + offset))
        for side in SWITCHES
        for offset in OFFSETS
    ]
    rois += [(1, 100, 100, 60, 150), (1, 100, 100, 60, 50), (1, 5, 5, 5, 50)]
    rois += [(0, -400, -300, -100, -50), (1, 0, 0, 2000, 1500), (0, 600, 600, 700, 650)]
    return features, np.array(rois)


def pasting() -> tuple[Array, Array]:
    """Masks (6, 28, 28), float32 as everywhere before pasting, and boxes within and across."""
    masks = np.random.RandomState(34).uniform(0, 1, (6, 28, 28)).astype(np.float32)
    boxes = [
        (10, 12, 60, 70),
        (-20.5, -10, 40, 30),
        (80, 70, 140, 130),
        (-30, -30, 200, 200),
        (5, 5, 5.375, 9),
        (33.25, 20, 34, 60),
    ]
    return masks, np.array(boxes, np.float32)


def outside() -> Array:
    """Boxes (4, 4) that do not touch the image."""
    boxes = [(200, 10, 260, 60), (-90, -90, -20, -20), (20, -70, 60, -30), (20, 120, 60, 180)]
    return np.array(boxes, np.float32)


def dice() -> tuple[Array, Array]:
    """Logits and masks (5, 28, 28); empty ones, and certain right and wrong ones."""
    rng = np.random.RandomState(35)
    logits, masks = rng.standard_normal((5, 28, 28)), rng.uniform(0, 1, (5, 28, 28)) > 0.6
    masks[2] = masks[3] = False
    logits[3], logits[4], masks[4] = -90, 90, True
    return logits, masks
