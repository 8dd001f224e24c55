"""From scores to detections, and from the network's frame to the user's image."""

from collections.abc import Callable

import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from ..precision import at_least_fp32
from ..structures import Detections, StageOutput
from .nms import suppress_duplicates

PasteMasks = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


def select_detections(
    output: StageOutput, max_detections: int, nms_threshold: float = 1.0
) -> Detections:
    """Return the best pairs of query and class of each image (paper, section 3.1).

    Args:
        output: of the last box stage.
        max_detections: k, or Q*K if that is less.
        nms_threshold: of `suppress_duplicates`; 1.0 for none, as in the paper.
    """
    num_classes = output.class_logits.shape[2]
    scores = at_least_fp32(output.class_logits).sigmoid().flatten(1)  # (N, Q*K)
    scores, index = scores.topk(min(max_detections, scores.shape[1]), dim=1)
    query_idx = index.div(num_classes, rounding_mode="floor")
    boxes = output.boxes.gather(1, query_idx[..., None].expand(-1, -1, 4))
    detections = Detections(boxes, scores, index % num_classes, query_idx)
    return detections if nms_threshold == 1 else suppress_duplicates(detections, nms_threshold)


def unique_queries(query_idx: Tensor, num_queries: int) -> tuple[Tensor, Tensor]:
    """Return each detected query once; all shapes depend on shapes alone, as export needs it.

    Args:
        query_idx: (N, k) in [0, Q); a query may appear once for each class.
        num_queries: Q.

    Returns:
        (N, q) queries, q = min(k, Q), the detected ones first, then others; and (N, k) the place
        of each detection's query among them.
    """
    is_detected = torch.zeros(query_idx.shape[0], num_queries, device=query_idx.device)
    is_detected = is_detected.scatter(1, query_idx, 1.0)
    queries = is_detected.topk(min(query_idx.shape[1], num_queries), dim=1).indices
    places = torch.arange(queries.shape[1], device=queries.device).expand_as(queries)
    place_of_query = torch.zeros_like(is_detected, dtype=torch.int64).scatter(1, queries, places)
    return queries, place_of_query.gather(1, query_idx)


def to_rows(query_idx: Tensor, num_queries: int) -> Tensor:
    """(N, k) queries in [0, Q) -> (N, k) rows of (N, Q) flattened."""
    first = torch.arange(query_idx.shape[0], device=query_idx.device) * num_queries
    return query_idx + first[:, None]


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Paste masks into the image, as Detectron2's ``paste_masks_in_image`` at 0.5.

    Args:
        masks: (D, H, W) scores.
        boxes: (D, 4) XYXY_ABS, not clipped; each has pixels of the image inside.
        image_size: height, width.

    Returns:
        (D, height, width) bool.
    """
    paste = retry_if_cuda_oom(paste_masks_in_image)
    return paste(masks, boxes, image_size, threshold=0.5).bool()  # uint8 if there are none


def postprocess(
    instances: Instances, height: int, width: int, paste_masks: PasteMasks = paste_masks
) -> Instances:
    """Bring detections into the user's image.

    As Detectron2's ``detector_postprocess``: boxes are scaled and clipped, and detections whose
    clipped box has no area are dropped. But masks are pasted with boxes that are not clipped, since
    clipping first would squeeze the mask of a box that crosses the border.

    Args:
        instances: pred_boxes in the resized image; pred_masks, if any, (D, 1, H, W) scores.
        height, width: of the user's image, in pixels.
        paste_masks: called as the function of that name in this module.

    Returns:
        New Instances; pred_masks (D, height, width) bool.
    """
    scale_y, scale_x = height / instances.image_size[0], width / instances.image_size[1]
    results = Instances((height, width), **instances.get_fields())
    scaled = instances.pred_boxes.clone()
    scaled.scale(scale_x, scale_y)
    results.pred_boxes = scaled.clone()
    results.pred_boxes.clip((height, width))
    keep = results.pred_boxes.nonempty()
    results = results[keep]
    if results.has("pred_masks"):
        boxes = scaled.tensor[keep]
        results.pred_masks = paste_masks(results.pred_masks[:, 0], boxes, (height, width))
    return results
