"""Masks pasted by products with one interpolation matrix for each axis.

Bilinear interpolation is separable, and products are faster than sampling a grid. The result is
that of Detectron2's ``paste_masks_in_image``, except where rounding decides about 0.5.
"""

import torch
from torch import Tensor

from ..modeling import QueryInst
from ..modeling.postprocessing import PasteMasks
from ..precision import at_least_fp32, full_precision
from .conditions import is_traced

MAX_WEIGHTS = 2**23  # floats of the interpolation matrices at once: 32 MB


def apply_to_model(model: QueryInst) -> None:
    """Let `model` paste its masks by products."""
    model.paste_masks = SeparablePaste(model.paste_masks)


class SeparablePaste:
    """Replaces `paste_masks` on the CPU."""

    def __init__(self, otherwise: PasteMasks):
        self.otherwise = otherwise

    def __call__(self, masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """As `postprocessing.paste_masks`."""
        if masks.device.type != "cpu" or is_traced():
            return self.otherwise(masks, boxes, image_size)
        return paste_separably(masks, boxes, image_size)


@torch.no_grad()
def paste_separably(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Paste masks; arguments and result as of `postprocessing.paste_masks`."""
    height, width = image_size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    masks, boxes = at_least_fp32(masks), at_least_fp32(boxes)
    windows = _windows(boxes, height, width)
    at_once = max(1, MAX_WEIGHTS // ((height + width) * max(masks.shape[1:])))
    with full_precision(masks.device):
        for part in torch.arange(len(masks)).split(at_once):
            x0, y0, x1, y1 = boxes[part].unbind(1)
            along_x = _interpolation(x0, x1, width, masks.shape[2]).to(masks)  # (d, width, W)
            along_y = _interpolation(y0, y1, height, masks.shape[1]).to(masks)  # (d, height, H)
            stretched = along_y @ masks[part]  # (d, height, W)
            for at, row in enumerate(part.tolist()):
                left, top, right, bottom = windows[row]
                scores = stretched[at, top:bottom] @ along_x[at, left:right].T
                torch.ge(scores, 0.5, out=pasted[row, top:bottom, left:right])
    return pasted


def _interpolation(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Return weights of a mask's elements for pixels along one axis, as ``F.grid_sample``'s.

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
    """Return the pixels of the image that each box touches, as x0, y0, x1, y1."""
    limits = boxes.new_tensor([width, height, width, height])
    corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1)
    return torch.minimum(corners.clamp(min=0), limits).long().tolist()
