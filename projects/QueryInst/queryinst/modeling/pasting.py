"""Masks of boxes drawn into the image."""

import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from .precision import at_least_fp32, full_precision

MAX_WEIGHTS = 2**23  # of one part's interpolation: 32 MB


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Masks of boxes as masks of the image: at least 0.5 after bilinear interpolation.

    Args:
        masks: (D, H, W) scores.
        boxes: (D, 4) XYXY_ABS, not clipped.
        image_size: height, width.

    Returns:
        (D, height, width) bool. Empty where a box has no area or lies outside.
    """
    height, width = image_size
    x0, y0, x1, y1 = boxes.unbind(1)
    visible = (x1 > x0) & (y1 > y0) & (x0 < width) & (y0 < height) & (x1 > 0) & (y1 > 0)
    rows = torch.nonzero(visible)[:, 0]
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    if masks.device.type == "cpu":
        _paste_separably(masks, boxes, rows, pasted)
    elif len(rows):  # Detectron2's raises on boxes that are not visible
        paste = retry_if_cuda_oom(paste_masks_in_image)
        pasted[rows] = paste(masks[rows], Boxes(boxes[rows]), image_size, threshold=0.5)
    return pasted


@torch.no_grad()
def _paste_separably(masks: Tensor, boxes: Tensor, rows: Tensor, pasted: Tensor) -> None:
    """Draw the masks in `rows` into `pasted`.

    Bilinear interpolation is a product with one matrix for each axis: faster than sampling a grid,
    with the result of Detectron2's ``paste_masks_in_image`` but where rounding decides about 0.5.
    """
    height, width = pasted.shape[1:]
    masks, boxes = at_least_fp32(masks[rows]), at_least_fp32(boxes[rows])
    windows = _windows(boxes, height, width)
    at_once = max(1, MAX_WEIGHTS // ((height + width) * max(masks.shape[1:])))
    with full_precision(masks.device):
        for part in torch.arange(len(rows)).split(at_once):
            x0, y0, x1, y1 = boxes[part].unbind(1)
            along_x = _interpolation(x0, x1, width, masks.shape[2]).to(masks)  # (d, width, W)
            along_y = _interpolation(y0, y1, height, masks.shape[1]).to(masks)  # (d, height, H)
            stretched = along_y @ masks[part]  # (d, height, W)
            for i, row in zip(part.tolist(), rows[part].tolist()):
                left, top, right, bottom = windows[i]
                at = i - int(part[0])
                scores = stretched[at, top:bottom] @ along_x[at, left:right].T
                torch.ge(scores, 0.5, out=pasted[row, top:bottom, left:right])


def _interpolation(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Weights of a mask's elements for pixels along one axis, as ``F.grid_sample``'s.

    Args:
        start, end: (D,) the boxes, in pixels.
        length: of the image.
        size: elements of a mask; beyond them lie zeros.

    Returns:
        (D, length, size).
    """
    pixels = torch.arange(length, dtype=start.dtype, device=start.device) + 0.5
    # Detectron2's steps by way of [-1, 1], which keep its rounding.
    at = (pixels - start[:, None]) / (end - start)[:, None] * 2 - 1
    at = ((at + 1) * size - 1) / 2
    elements = torch.arange(size, dtype=start.dtype, device=start.device)
    return (1 - (at[..., None] - elements).abs_()).clamp_(min=0)


def _windows(boxes: Tensor, height: int, width: int) -> list[list[int]]:
    """Each box in whole pixels, x0, y0, x1, y1, with those that it touches; outside nothing is."""
    limits = boxes.new_tensor([width, height, width, height])
    corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1)
    return torch.minimum(corners.clamp(min=0), limits).long().tolist()
