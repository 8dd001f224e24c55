"""HungarianMatcher: which query stands for which ground-truth instance, in every stage."""

import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..precision import full_precision
from ..structures import BatchTargets, MatchedIndices, StageOutput
from .losses import focal_cost, giou_cost, l1_cost


@torch.no_grad()
def match_queries(cost: Tensor) -> MatchedIndices:
    """Hungarian assignment of least total cost.

    Args:
        cost: (Q, G), on the CPU; a side may be empty.

    Returns:
        min(Q, G) pairs, by rising query_idx.

    Raises:
        FloatingPointError: a cost is not finite.
    """
    if num_bad := int((~cost.isfinite()).sum()):
        raise FloatingPointError(f"{num_bad} of {cost.numel()} matching costs are not finite")
    query_idx, gt_idx = linear_sum_assignment(cost.numpy())
    return MatchedIndices(torch.from_numpy(query_idx), torch.from_numpy(gt_idx))


class HungarianMatcher:
    """Matching by class, L1 and GIoU cost (DETR; mmdet ``HungarianAssigner``).

    Sees this stage's refined boxes and logits, never their gradients.
    """

    @configurable
    def __init__(
        self, *, class_cost: float, l1_cost: float, giou_cost: float, alpha: float, gamma: float
    ):
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.alpha = alpha
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "class_cost": queryinst.COST_CLASS,
            "l1_cost": queryinst.COST_L1,
            "giou_cost": queryinst.COST_GIOU,
            "alpha": queryinst.FOCAL_ALPHA,
            "gamma": queryinst.FOCAL_GAMMA,
        }

    @torch.no_grad()
    def __call__(self, outputs: list[StageOutput], targets: BatchTargets) -> list[MatchedIndices]:
        """Match all stages and images: one batch of costs, one transfer to the CPU and one back.

        Returns:
            One MatchedIndices of the whole batch per stage, image after image. Every stage has
            M = sum of min(Q, number of instances) pairs.

        Raises:
            FloatingPointError: a cost is not finite; names the stage and the image in the batch.
        """
        costs = self.costs(outputs, targets).cpu()  # (S, N, Q, Gmax)
        num_queries = costs.shape[2]
        stages = []
        for stage, cost in enumerate(costs):
            pairs = []
            first_gt = 0
            for image, num_gts in enumerate(targets.num_per_image):
                try:
                    match = match_queries(cost[image, :, :num_gts])
                except FloatingPointError as error:
                    where = f"stage {stage}, image {image // targets.num_groups}"
                    raise FloatingPointError(f"{where}: {error}") from None
                rows = (match.query_idx + image * num_queries, match.gt_idx + first_gt)
                pairs.append(torch.stack(rows))
                first_gt += num_gts
            stages.append(torch.cat(pairs, dim=1))
        indices = torch.stack(stages).to(targets.boxes.device)  # (S, 2, M)
        return [MatchedIndices(query_idx, gt_idx) for query_idx, gt_idx in indices]

    def costs(self, outputs: list[StageOutput], targets: BatchTargets) -> Tensor:
        """(S, N, Q, Gmax) costs; rows of images with fewer instances are filled up."""
        gt_boxes, gt_classes = _pad(targets)  # (N, Gmax, 4), (N, Gmax)
        with full_precision(gt_boxes.device):
            logits = torch.stack([output.class_logits for output in outputs])
            boxes = torch.stack([output.boxes for output in outputs])
            whwh = targets.whwh[:, None].to(boxes)
            cost = self.class_cost * focal_cost(
                logits, gt_classes.expand(len(outputs), -1, -1), self.alpha, self.gamma
            )
            cost += self.l1_cost * l1_cost(boxes, gt_boxes, whwh)
            cost += self.giou_cost * giou_cost(boxes, gt_boxes)
        return cost


def _pad(targets: BatchTargets) -> tuple[Tensor, Tensor]:
    """Boxes (N, Gmax, 4) and classes (N, Gmax) of a batch; what fills up is a zero."""
    num_images, longest = len(targets.num_per_image), max(targets.num_per_image, default=0)
    boxes = targets.boxes.new_zeros(num_images, longest, 4)
    classes = targets.classes.new_zeros(num_images, longest)
    rows = zip(
        targets.boxes.split(targets.num_per_image), targets.classes.split(targets.num_per_image)
    )
    for image, (image_boxes, image_classes) in enumerate(rows):
        boxes[image, : len(image_boxes)] = image_boxes
        classes[image, : len(image_classes)] = image_classes
    return boxes, classes
