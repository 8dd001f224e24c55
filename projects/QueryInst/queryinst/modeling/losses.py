"""Losses and pairwise matching costs: pure functions, neither weighted nor normalized.

Losses come element by element or pair by pair, so that the caller sums each stage for itself.
Everything runs in float32 at least; float64 stays.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import at_least_fp32


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017; mmdet ``py_sigmoid_focal_loss``).

    Args:
        logits: any shape.
        targets: {0, 1} in the same shape.
        alpha: weight of the positives; the negatives' is 1 - alpha.

    Returns:
        The loss of each element.
    """
    logits = at_least_fp32(logits)
    targets = targets.to(logits)
    scores = logits.sigmoid()
    error = scores + targets - 2 * scores * targets  # 1 - p of the true side
    weight = 1 - alpha + (2 * alpha - 1) * targets
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * error.pow(gamma) * cross_entropy


def l1_loss(boxes: Tensor, gt_boxes: Tensor, whwh: Tensor) -> Tensor:
    """L1 distance of XYXY boxes in units of the image, summed over the four coordinates.

    Args:
        boxes, gt_boxes, whwh: (..., 4) in pixels; whwh is each box's image size.

    Returns:
        (...).
    """
    boxes = at_least_fp32(boxes)
    return ((boxes - gt_boxes.to(boxes)).abs() / whwh.to(boxes)).sum(-1)


def giou_loss(boxes: Tensor, gt_boxes: Tensor, eps: float = 1e-6) -> Tensor:
    """1 - GIoU (Rezatofighi et al., 2019) of box pairs (..., 4) XYXY -> (...)."""
    boxes = at_least_fp32(boxes)
    return 1 - generalized_iou(boxes, gt_boxes.to(boxes), eps)


def dice_loss(mask_logits: Tensor, gt_masks: Tensor, eps: float = 1e-5) -> Tensor:
    """V-Net Dice loss (Milletari et al., 2016).

    Args:
        mask_logits: (..., H, W).
        gt_masks: {0, 1}, (..., H, W).
        eps: added to the squared size of either mask, so twice in all, as in mmdet.

    Returns:
        (...), each in [0, 1].
    """
    scores = at_least_fp32(mask_logits).sigmoid().flatten(-2)
    gt = gt_masks.to(scores).flatten(-2)
    overlap = (scores * gt).sum(-1)
    sizes = (scores.square().sum(-1) + eps) + (gt.square().sum(-1) + eps)
    return 1 - 2 * overlap / sizes


def mask_bce_loss(mask_logits: Tensor, gt_masks: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over a mask's pixels (as Mask R-CNN): (..., H, W) -> (...)."""
    logits = at_least_fp32(mask_logits)
    losses = F.binary_cross_entropy_with_logits(logits, gt_masks.to(logits), reduction="none")
    return losses.mean((-2, -1))


def focal_cost(logits: Tensor, gt_classes: Tensor, alpha: float, gamma: float) -> Tensor:
    """What the focal loss gains if a query takes a ground truth's class (mmdet ``FocalLossCost``).

    Args:
        logits: (..., Q, K).
        gt_classes: (..., G) int64, with the same leading dimensions or ones that broadcast.

    Returns:
        (..., Q, G).
    """
    eps = 1e-12
    scores = at_least_fp32(logits).sigmoid()
    if_negative = -(1 - scores + eps).log() * (1 - alpha) * scores.pow(gamma)
    if_positive = -(scores + eps).log() * alpha * (1 - scores).pow(gamma)
    cost = if_positive - if_negative  # (..., Q, K)
    index = gt_classes[..., None, :].expand(*cost.shape[:-1], gt_classes.shape[-1])
    return cost.gather(-1, index)


def l1_cost(boxes: Tensor, gt_boxes: Tensor, whwh: Tensor) -> Tensor:
    """Pairwise L1 distance in units of the image.

    Args:
        boxes: (..., Q, 4) XYXY in pixels.
        gt_boxes: (..., G, 4).
        whwh: (..., 1, 4) image sizes.

    Returns:
        (..., Q, G).
    """
    boxes = at_least_fp32(boxes) / whwh
    gt_boxes = gt_boxes.to(boxes) / whwh
    return torch.cdist(boxes, gt_boxes.expand(*boxes.shape[:-2], -1, -1), p=1)


def giou_cost(boxes: Tensor, gt_boxes: Tensor, eps: float = 1e-6) -> Tensor:
    """Pairwise -GIoU of (..., Q, 4) and (..., G, 4) -> (..., Q, G)."""
    boxes = at_least_fp32(boxes)
    gt_boxes = gt_boxes.to(boxes)
    return -generalized_iou(boxes[..., :, None, :], gt_boxes[..., None, :, :], eps)


def generalized_iou(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """GIoU of XYXY boxes whose shapes (..., 4) broadcast; areas are at least `eps`."""
    area1 = (boxes1[..., 2:] - boxes1[..., :2]).prod(-1)
    area2 = (boxes2[..., 2:] - boxes2[..., :2]).prod(-1)
    overlap = _area(
        torch.max(boxes1[..., :2], boxes2[..., :2]), torch.min(boxes1[..., 2:], boxes2[..., 2:])
    )
    hull = _area(
        torch.min(boxes1[..., :2], boxes2[..., :2]), torch.max(boxes1[..., 2:], boxes2[..., 2:])
    )
    union = (area1 + area2 - overlap).clamp(min=eps)
    hull = hull.clamp(min=eps)
    return overlap / union - (hull - union) / hull


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0).prod(-1)
