"""From the frame of the network to that of the user's image."""

import numpy as np

from .results import Result


def to_result(
    detections: dict[str, np.ndarray],
    network_size: tuple[int, int],
    image_size: tuple[int, int],
    class_names: tuple[str, ...] = (),
    category_ids: tuple[int, ...] = (),
) -> Result:
    """Bring the detections of a resized image into the user's.

    As Detectron2's ``detector_postprocess``: boxes are scaled and clipped, and detections whose
    clipped box has no area are dropped. Masks lie in the boxes that are not clipped.

    Args:
        detections: boxes (n, 4), scores, classes, query_idx (n,), masks (n, S, S) if there are any.
        network_size: height, width of the resized image, without padding.
        image_size: height, width of the user's image.
    """
    height, width = (int(side) for side in image_size)
    ratios = np.array([width / network_size[1], height / network_size[0]] * 2, np.float32)
    mask_boxes = detections["boxes"].astype(np.float32) * ratios
    boxes = np.clip(mask_boxes, 0, np.array([width, height] * 2, np.float32))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    masks = detections.get("masks")
    return Result(
        image_size=(height, width),
        boxes=boxes[keep],
        scores=detections["scores"][keep].astype(np.float32),
        classes=detections["classes"][keep],
        query_idx=detections["query_idx"][keep],
        class_names=class_names,
        category_ids=category_ids,
        mask_scores=None if masks is None else masks[keep],
        mask_boxes=None if masks is None else mask_boxes[keep],
    )
