"""The losses of all stages: weights, normalizers and names."""

import torch
from detectron2.config import configurable
from detectron2.utils import comm
from torch import Tensor

from ..precision import full_precision
from ..structures import BatchTargets, MatchedIndices, StageOutput
from .losses import dice_loss, focal_loss, giou_loss, l1_loss, mask_bce_loss
from .targets import crop_gt_masks

_EPS = torch.finfo(torch.float32).eps  # mmdet adds it to every averaging factor


class SetCriterion:
    """Focal, L1, GIoU and Dice loss of every stage, weighted, over the number of matched queries.

    That number is averaged over the processes and at least 1. mmdet 3.3.0 leaves out the latter for
    the class and box losses, so that a batch without instances has a class loss of 1e9 there; the
    authors' code clamps as well. Beside dice stands a binary cross-entropy, of weight 0 there.
    """

    @configurable
    def __init__(
        self,
        *,
        class_weight: float,
        l1_weight: float,
        giou_weight: float,
        dice_weight: float,
        alpha: float,
        gamma: float,
        mask_bce_weight: float = 0.0,
    ):
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.dice_weight = dice_weight
        self.alpha = alpha
        self.gamma = gamma
        self.mask_bce_weight = mask_bce_weight

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "class_weight": queryinst.CLASS_WEIGHT,
            "l1_weight": queryinst.L1_WEIGHT,
            "giou_weight": queryinst.GIOU_WEIGHT,
            "dice_weight": queryinst.DICE_WEIGHT,
            "alpha": queryinst.FOCAL_ALPHA,
            "gamma": queryinst.FOCAL_GAMMA,
            "mask_bce_weight": queryinst.MASK_BCE_WEIGHT,
        }

    def __call__(
        self,
        outputs: list[StageOutput],
        mask_logits: list[Tensor] | None,
        matches: list[MatchedIndices],
        targets: BatchTargets,
        padded_size: tuple[int, int],
        num_matched: int | None = None,
    ) -> dict[str, Tensor]:
        """All losses of a batch.

        Args:
            outputs, matches: one per stage.
            mask_logits: one (M, K, H, W) per stage, of the matched queries; None without masks.
            padded_size: height, width of the padded batch in pixels.
            num_matched: what the losses are divided by, instead of the number of matches, if this
                is but a part of a batch.

        Returns:
            Scalars ``loss_cls_stage0``, ``loss_box_l1_stage0``, ``loss_box_giou_stage0``,
            ``loss_mask_stage0``, ... Without instances all but the class losses are zeros that keep
            the graph.
        """
        if num_matched is None:
            num_matched = len(matches[0].query_idx)
        normalizer = _normalizer(num_matched, targets.boxes.device)
        with full_precision(targets.boxes.device):
            per_stage = {"loss_cls": self._class_losses(outputs, matches, targets)}
            num_queries = outputs[0].boxes.shape[1]
            boxes = torch.stack(
                [o.boxes.flatten(0, 1)[m.query_idx] for o, m in zip(outputs, matches)]
            )  # (S, M, 4)
            per_stage |= self._box_losses(boxes, matches, targets, num_queries)
            if mask_logits is not None:
                size = mask_logits[0].shape[-1]
                gt_masks = crop_gt_masks(
                    targets, boxes.detach(), matches, num_queries, padded_size, size
                )
                per_stage["loss_mask"] = self._mask_losses(mask_logits, gt_masks, matches, targets)
        return {
            f"{name}_stage{stage}": loss
            for name, losses in per_stage.items()
            for stage, loss in enumerate((losses / normalizer).unbind())
        }

    def _class_losses(self, outputs, matches, targets: BatchTargets) -> Tensor:
        """(S,)."""
        logits = torch.stack([output.class_logits for output in outputs])  # (S, N, Q, K)
        flat = torch.zeros_like(logits).flatten(1, 2)  # (S, N*Q, K)
        for stage, match in enumerate(matches):
            flat[stage, match.query_idx, targets.classes[match.gt_idx]] = 1
        losses = focal_loss(logits.flatten(1, 2), flat, self.alpha, self.gamma)
        return self.class_weight * losses.sum((1, 2))

    def _box_losses(self, boxes, matches, targets: BatchTargets, num_queries: int) -> dict:
        """Two of (S,)."""
        gt_boxes = torch.stack([targets.boxes[match.gt_idx] for match in matches]).to(boxes)
        whwh = torch.stack(
            [targets.whwh[m.query_idx.div(num_queries, rounding_mode="floor")] for m in matches]
        ).to(boxes)
        return {
            "loss_box_l1": self.l1_weight * l1_loss(boxes, gt_boxes, whwh).sum(1),
            "loss_box_giou": self.giou_weight * giou_loss(boxes, gt_boxes).sum(1),
        }

    def _mask_losses(self, mask_logits, gt_masks: Tensor, matches, targets) -> Tensor:
        """(S,), in the ground truth's class channel."""
        channels = []
        for logits, match in zip(mask_logits, matches):
            classes = targets.classes[match.gt_idx]
            if logits.shape[1] == 1:  # class-agnostic
                classes = torch.zeros_like(classes)
            channels.append(logits[torch.arange(len(logits), device=logits.device), classes])
        stacked = torch.stack(channels)
        losses = self.dice_weight * dice_loss(stacked, gt_masks)
        if self.mask_bce_weight:
            losses = losses + self.mask_bce_weight * mask_bce_loss(stacked, gt_masks)
        return losses.sum(1)


def _normalizer(num_matched: int, device: torch.device) -> float | Tensor:
    """Matched queries, averaged over the processes, at least 1."""
    if comm.get_world_size() == 1:
        return max(num_matched, 1) + _EPS
    number = torch.full((), num_matched, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(number)
    return (number / comm.get_world_size()).clamp(min=1) + _EPS
