"""From scores to detections, and from the network's frame to the user's image."""

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from .pasting import paste_masks
from .precision import at_least_fp32


class TopK(NamedTuple):
    """The best pairs of query and class of each image, by falling score."""

    scores: Tensor  # (N, k)
    classes: Tensor  # (N, k) int64
    query_idx: Tensor  # (N, k) int64, in [0, Q); a query may appear once for each class

    def query_rows(self, num_queries: int) -> Tensor:
        """(N, k) rows of (N, Q) flattened."""
        first = torch.arange(len(self.query_idx), device=self.query_idx.device) * num_queries
        return self.query_idx + first[:, None]


def select_topk(class_logits: Tensor, max_detections: int) -> TopK:
    """The `max_detections` best of queries x classes, without NMS (paper, section 3.1).

    Args:
        class_logits: (N, Q, K).
    """
    num_classes = class_logits.shape[2]
    scores = at_least_fp32(class_logits).sigmoid().flatten(1)  # (N, Q*K)
    scores, index = scores.topk(min(max_detections, scores.shape[1]), dim=1)
    return TopK(scores, index % num_classes, index.div(num_classes, rounding_mode="floor"))


def postprocess(instances: Instances, height: int, width: int) -> Instances:
    """Bring detections into the user's image.

    As Detectron2's ``detector_postprocess``, but masks are pasted with boxes that are not clipped
    yet: clipping first would squeeze the mask of a box that crosses the border. The boxes are
    clipped afterwards. None is dropped: a box outside of the image gets an empty mask.

    Args:
        instances: pred_boxes in the resized image; pred_masks, if any, (D, 1, H, W) scores.
        height, width: of the user's image, in pixels.

    Returns:
        New Instances; pred_masks (D, height, width) bool.
    """
    scale_y, scale_x = height / instances.image_size[0], width / instances.image_size[1]
    results = Instances((height, width), **instances.get_fields())
    boxes = instances.pred_boxes.clone()
    boxes.scale(scale_x, scale_y)
    if results.has("pred_masks"):
        results.pred_masks = paste_masks(results.pred_masks[:, 0], boxes.tensor, (height, width))
    boxes.clip((height, width))
    results.pred_boxes = boxes
    return results
