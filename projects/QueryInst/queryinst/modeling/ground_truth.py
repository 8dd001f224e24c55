"""The ground truth of a batch, as matching and losses take it."""

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ..structures import BatchTargets


def batch_targets(instances: list[Instances], whwh: Tensor, *, with_masks: bool) -> BatchTargets:
    """All images' ground truth in one row.

    Args:
        instances: one per image, on the model's device, with gt_boxes, gt_classes and gt_masks.
        whwh: (N, 4) width, height, width, height of each image, in the model's dtype.
        with_masks: False for a box detector, whose instances need none.

    Raises:
        ValueError: instances without masks although masks are wanted.
    """
    return BatchTargets(
        boxes=torch.cat([x.gt_boxes.tensor for x in instances]).to(whwh),
        classes=torch.cat([x.gt_classes for x in instances]),
        num_per_image=[len(x) for x in instances],
        whwh=whwh,
        masks=[_masks_of(x) for x in instances] if with_masks else None,
    )


def _masks_of(instances: Instances):
    if instances.has("gt_masks"):
        return instances.gt_masks
    if len(instances):
        raise ValueError(
            f"{len(instances)} instances have no masks; give the data set masks, or train a box "
            "detector with MODEL.MASK_ON False"
        )
    empty = torch.zeros(0, *instances.image_size, dtype=torch.bool)
    return BitMasks(empty).to(instances.gt_boxes.device)
