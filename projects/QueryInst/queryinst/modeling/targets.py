"""The ground truth of a batch: as matching and losses take it, and its masks cropped to boxes."""

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from ..structures import BatchTargets, MatchedIndices


def instances_of(batched_inputs: list[dict], device: torch.device) -> list[Instances]:
    """The ground truth of each image on a device.

    Raises:
        ValueError: there is no image, or one has none.
    """
    missing = [index for index, x in enumerate(batched_inputs) if x.get("instances") is None]
    if missing or not batched_inputs:
        what = f"image {missing[0]} of its batch has none" if missing else "its batch is empty"
        raise ValueError(
            f"the model is in training mode, which needs 'instances' of each image, but {what}; "
            "call model.eval() to predict"
        )
    return [x["instances"].to(device) for x in batched_inputs]


def batch_targets(instances: list[Instances], whwh: Tensor, *, with_masks: bool) -> BatchTargets:
    """Join the ground truth of all images.

    Args:
        instances: one per image, on the model's device, with gt_boxes, gt_classes and gt_masks.
        whwh: (N, 4) width, height, width, height of each image, in the model's dtype.
        with_masks: False for a box detector, whose instances need none.

    Raises:
        ValueError: masks are wanted and instances have none.
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


@torch.no_grad()
def crop_gt_masks(
    targets: BatchTargets,
    boxes: Tensor,
    matches: list[MatchedIndices],
    num_queries: int,
    padded_size: tuple[int, int],
    mask_size: int,
) -> Tensor:
    """Crop the masks of matched instances to the boxes that masks are predicted in.

    The boxes are clipped to the padded batch first, as mmdet's ``BitmapMasks.crop_and_resize`` does
    and Detectron2's does not; the RoI features see the unclipped ones.

    Args:
        boxes: (S, M, 4) the matched boxes of each stage, XYXY_ABS.
        matches: S MatchedIndices of the batch, M pairs each, image after image.
        padded_size: height, width of the batch in pixels.
        mask_size: side of the targets in bins.

    Returns:
        (S, M, mask_size, mask_size) bool.
    """
    height, width = padded_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)  # (S, M, 2)
    boxes = torch.stack([x, y], dim=-1).flatten(-2)
    gt_idx = torch.stack([match.gt_idx for match in matches])  # (S, M)
    num_matched = [min(num_queries, num_gts) for num_gts in targets.num_per_image]
    assert targets.masks is not None
    cropped = []
    first_gt = 0
    align = ROIAlign((mask_size, mask_size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
    per_image = zip(targets.masks, boxes.split(num_matched, 1), gt_idx.split(num_matched, 1))
    padded_of, padded = None, boxes
    for (masks, image_boxes, image_gts), num_gts in zip(per_image, targets.num_per_image):
        rois = torch.cat([(image_gts - first_gt)[..., None].to(boxes), image_boxes], dim=-1)
        if masks is not padded_of:  # rows of groups come one behind the other
            padded_of, padded = masks, _pad_masks(masks, padded_size).to(boxes)[:, None]
        aligned = align(padded, rois.flatten(0, 1)).unflatten(0, rois.shape[:2])
        cropped.append(aligned[:, :, 0] >= 0.5)
        first_gt += num_gts
    return torch.cat(cropped, dim=1)


def _pad_masks(masks: BitMasks | PolygonMasks, padded_size: tuple[int, int]) -> Tensor:
    """(G, H, W) bool of the padded size, zero beyond the image."""
    height, width = padded_size
    if isinstance(masks, PolygonMasks):
        return BitMasks.from_polygon_masks(masks, height, width).tensor.to(masks.device)
    bits = masks.tensor
    return torch.nn.functional.pad(bits, (0, width - bits.shape[2], 0, height - bits.shape[1]))
