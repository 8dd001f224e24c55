"""Non-maximum suppression, which a model that was trained for long does not need."""

import torch
from detectron2.layers import nms

from ..structures import Detections


def suppress_duplicates(detections: Detections, threshold: float) -> Detections:
    """Give the score 0 to what overlaps a better detection of its class, and move it to the end.

    That queries do not repeat each other is what their self-attention learns last: it takes epochs.
    Shapes stay as they are, as export needs it.

    Args:
        threshold: greatest IoU of the boxes of two detections of one class in an image.
    """
    num_images, num = detections.scores.shape
    image_idx = torch.arange(num_images, device=detections.scores.device)[:, None]
    boxes, scores = detections.boxes.flatten(0, 1).float(), detections.scores.flatten().float()
    boxes = boxes - boxes.min()
    # Classes side by side, images one below the other: only what is of both the same overlaps.
    places = torch.stack([detections.classes, image_idx.expand(-1, num)], dim=2).flatten(0, 1)
    keep = nms(boxes + (places * (boxes.max() + 1)).repeat(1, 2), scores, threshold)
    kept = torch.zeros_like(detections.classes).flatten().index_fill(0, keep, 1).view(-1, num)
    order = (torch.arange(num, device=keep.device) - num * kept).argsort(dim=1)
    return Detections(
        boxes=detections.boxes.gather(1, order[..., None].expand(-1, -1, 4)),
        scores=(detections.scores * kept).gather(1, order),
        classes=detections.classes.gather(1, order),
        query_idx=detections.query_idx.gather(1, order),
    )
