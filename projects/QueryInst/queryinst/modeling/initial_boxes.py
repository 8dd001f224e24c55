"""Where the initial boxes of a model without weights lie."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def initial_boxes(num_boxes: int, grid_sizes: Sequence[float] = ()) -> Tensor:
    """Boxes on a grid, or each the whole image (Sparse R-CNN) if there are no `grid_sizes`.

    Returns:
        (num_boxes, 4) center, width and height in sides of the image.
    """
    if grid_sizes:
        return grid_boxes(num_boxes, grid_sizes)
    return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_boxes, 1)


def grid_boxes(num_boxes: int, sizes: Sequence[float]) -> Tensor:
    """Boxes on a grid over the image, of about as many rows as columns.

    Args:
        sizes: widths and heights in sides of the image, which take turns in rows and columns.

    Returns:
        (num_boxes, 4) center, width and height in sides of the image.
    """
    rows = max(1, round(math.sqrt(num_boxes)))
    ends = [num_boxes * row // rows for row in range(rows + 1)]
    boxes = []
    for row, (start, end) in enumerate(pairwise(ends)):
        for column in range(end - start):
            center = (column + 0.5) / (end - start), (row + 0.5) / rows
            length = sizes[(row + column) % len(sizes)]
            boxes.append((*center, length, length))
    return torch.tensor(boxes)
