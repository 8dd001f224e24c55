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
        sizes: widths and heights in sides of the image, which take turns.

    Returns:
        (num_boxes, 4) center, width and height in sides of the image.
    """
    rows = max(1, round(math.sqrt(num_boxes)))
    ends = [num_boxes * row // rows for row in range(rows + 1)]
    centers = [
        ((column + 0.5) / (end - start), (row + 0.5) / rows)
        for row, (start, end) in enumerate(pairwise(ends))
        for column in range(end - start)
    ]
    lengths = torch.tensor(sizes)[torch.arange(num_boxes) % len(sizes)]
    return torch.cat([torch.tensor(centers), lengths[:, None].expand(-1, 2)], dim=1)
