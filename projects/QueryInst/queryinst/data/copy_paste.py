"""Copy-paste: objects of another training image, drawn over an image."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

CHOICE = 0.5  # probability of each object of the other image to be pasted
_FIELDS = {"gt_boxes", "gt_classes", "gt_masks"}
VISIBLE = 0.2  # share of its pixels that an object must keep


def copy_paste(image: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Paste a random choice of the objects of `other` at random places of `image`.

    Simple Copy-Paste (Ghiasi et al., CVPR 2021), without blending, and with one difference: an
    object is moved to anywhere in the image, and left out if it is larger. Both images have been
    augmented. Draws from Python's global generator.

    Args:
        image, other: training inputs of the model, with "image" (C, H, W) and "instances" with
            gt_boxes, gt_classes and gt_masks as bitmaps. They do not change.

    Raises:
        ValueError: a mapper gave other instances.

    Returns:
        `image` with other pixels and instances. The box of an object that is partly hidden is that
        of what is left of its mask; an object of which less than `VISIBLE` is left is removed.
    """
    instances, objects = _instances_of(image), _instances_of(other)
    pixels = image["image"].clone()
    masks = [instances.gt_masks.tensor]
    classes = [instances.gt_classes]
    for index in range(len(objects)):
        if random.random() >= CHOICE or not objects.gt_masks.tensor[index].any():
            continue
        patch = _cut_out(other["image"], objects.gt_masks.tensor[index])
        place = _draw_place(patch[1].shape, pixels.shape[1:])
        if place is None:
            continue
        pixels[:, *place][:, patch[1]] = patch[0][:, patch[1]]
        mask = torch.zeros(1, *pixels.shape[1:], dtype=torch.bool)
        mask[0][place] = patch[1]
        masks.append(mask)
        classes.append(objects.gt_classes[index : index + 1])
    whole = torch.cat(masks)
    result = Instances(instances.image_size)
    result.gt_masks = BitMasks(_visible(masks))
    result.gt_boxes = result.gt_masks.get_bounding_boxes()
    result.gt_classes = torch.cat(classes)
    left, area = result.gt_masks.tensor.flatten(1).sum(1), whole.flatten(1).sum(1)
    unhidden = (left == area)[: len(instances)]
    result.gt_boxes.tensor[: len(instances)][unhidden] = instances.gt_boxes.tensor[unhidden]
    keep = (left >= VISIBLE * area) & result.gt_boxes.nonempty()
    return {**image, "image": pixels, "instances": result[keep]}


def _instances_of(image: dict[str, Any]) -> Instances:
    fields = image["instances"].get_fields() if "instances" in image else {}
    if fields.keys() != _FIELDS or not isinstance(fields["gt_masks"], BitMasks):
        given = {name: type(value).__name__ for name, value in fields.items()}
        raise ValueError(
            f"INPUT.COPY_PASTE needs instances with {', '.join(sorted(_FIELDS))} (BitMasks) alone,"
            f" the mapper gave {given or 'none'}; set it to 0.0"
        )
    return image["instances"]


def _cut_out(pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tight rectangles (C, h, w) and (h, w) around a mask (H, W), which is not empty."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return pixels[:, *window], mask[window]


def _draw_place(size: Sequence[int], image_size: Sequence[int]) -> tuple[slice, slice] | None:
    """Rows and columns of a rectangle anywhere in an image; None if it does not fit."""
    room = [length - side for length, side in zip(image_size, size)]
    if min(room) < 0:
        return None
    top, left = (random.randint(0, most) for most in room)
    return slice(top, top + size[0]), slice(left, left + size[1])


def _visible(masks: list[Tensor]) -> Tensor:
    """What later masks leave of each earlier one."""
    visible: list[Tensor] = []
    hidden = masks[0].new_zeros(masks[0].shape[1:])
    for mask in reversed(masks):
        visible.insert(0, mask & ~hidden)
        hidden = hidden | mask.any(0)
    return torch.cat(visible)
