"""Non-maximum suppression, which a model that was trained for long does not need."""

import torch
from detectron2.layers import batched_nms

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
    groups = detections.classes * num_images + image_idx
    boxes, scores = detections.boxes.flatten(0, 1), detections.scores.flatten()
    boxes = boxes - boxes.amin()  # it tells groups apart by shifts, which boxes below 0 defeat
    keep = batched_nms(boxes, scores.float(), groups.flatten(), threshold)
    kept = detections.scores.new_zeros(num_images * num).index_fill(0, keep, 1.0)
    scores = detections.scores * kept.view_as(detections.scores)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Detections(
        boxes=detections.boxes.gather(1, order[..., None].expand(-1, -1, 4)),
        scores=scores,
        classes=detections.classes.gather(1, order),
        query_idx=detections.query_idx.gather(1, order),
    )
