"""Detections of several views of one image, merged by class and mask IoU."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from ..precision import full_precision

MIN_IOU = 0.6  # of the masks of a cluster's members with that of its best
_MIN_BOX_IOU = 0.2  # of two detections whose masks are compared at all
_GRID = 56  # elements a side on which two masks are compared, in the box around both
_MAX_PIXELS = 2**22  # floats of an averaged mask at once: 16 MB


class ViewDetections(NamedTuple):
    """Detections of all views of an image, D rows, on the CPU."""

    boxes: Tensor  # (D, 4) XYXY_ABS in pixels of the user's image, not clipped; each has an area
    scores: Tensor  # (D,)
    classes: Tensor  # (D,) int64
    query_idx: Tensor  # (D,) int64
    view_idx: Tensor  # (D,) int64
    masks: Tensor | None  # (D, H, W) scores, mirrored back; None for a box detector


class Merged(NamedTuple):
    """M merged detections, by falling score."""

    boxes: Tensor  # (M, 4) XYXY_ABS in pixels of the user's image, not clipped
    scores: Tensor  # (M,)
    classes: Tensor  # (M,) int64
    query_idx: Tensor  # (M,) int64, of the member with the highest score
    members: list[Tensor]  # M times (m,) int64, rows of the ViewDetections, the best first


class Crop(NamedTuple):
    """A mask, as far as it can have pixels."""

    left: int
    top: int
    mask: Tensor  # (h, w) bool


def merge_views(found: ViewDetections, num_views: int) -> Merged:
    """Merge what the views found of the same objects.

    Clusters are made greedily, from the highest score down. The best detection that is left takes
    from each other view the one of its class whose mask overlaps most with its own, if their IoU
    is at least `MIN_IOU`. Of its own view it takes none: what a view tells apart stays apart.

    Args:
        num_views: a view without a member in a cluster counts with the score 0.

    Returns:
        Scores are means over the views; boxes are means of the members, weighted by score.
    """
    order = found.scores.argsort(descending=True, stable=True)
    comparable = _comparable(found)
    is_left = torch.ones(len(order), dtype=torch.bool)
    clusters = []
    for best in order.tolist():
        if not is_left[best]:
            continue
        rows = torch.nonzero(comparable[best] & is_left)[:, 0]
        members = torch.cat([torch.tensor([best]), _one_of_each_view(found, best, rows)])
        is_left[members] = False
        clusters.append(members)
    return _average(found, clusters, num_views)


def first_of(merged: Merged, num: int) -> Merged:
    """The `num` best."""
    boxes, scores, classes, query_idx, members = merged
    return Merged(boxes[:num], scores[:num], classes[:num], query_idx[:num], members[:num])


def mean_masks(
    found: ViewDetections, merged: Merged, image_size: tuple[int, int]
) -> Iterator[Crop]:
    """Average the mask scores of each cluster's members in the user's pixels; cut them at 0.5.

    One after the other, so that a mask of the whole image exists only where the caller makes one.
    An average of members with the weights of their scores is one product of matrices, since
    bilinear interpolation is separable.

    Args:
        image_size: height, width of the user's image.
    """
    assert found.masks is not None
    height, width = image_size
    for members in merged.members:
        boxes, masks = found.boxes[members], found.masks[members]
        left, top = (max(0, int(side.min().floor())) for side in (boxes[:, 0], boxes[:, 1]))
        right = max(left, min(width, int(boxes[:, 2].max().ceil())))
        bottom = max(top, min(height, int(boxes[:, 3].max().ceil())))
        x0, y0, x1, y1 = (boxes - boxes.new_tensor([left, top, left, top])).unbind(1)
        along_x = _interpolation(x0, x1, right - left, masks.shape[2]).to(masks)
        along_y = _interpolation(y0, y1, bottom - top, masks.shape[1]).to(masks)
        weights = (found.scores[members] / found.scores[members].sum()).to(masks)
        with full_precision(masks.device):
            columns = (weights[:, None, None] * masks @ along_x.mT).flatten(0, 1)  # (m*H, w)
            rows = along_y.transpose(0, 1).flatten(1)  # (h, m*H)
            at_once = max(1, _MAX_PIXELS // max(1, right - left))
            parts = [part @ columns >= 0.5 for part in rows.split(at_once)]
        yield Crop(left, top, torch.cat(parts))


def _comparable(found: ViewDetections) -> Tensor:
    """(D, D) bool: of one class, of two views, with boxes that overlap."""
    boxes = Boxes(found.boxes)
    same_class = found.classes[:, None] == found.classes
    other_view = found.view_idx[:, None] != found.view_idx
    return (pairwise_iou(boxes, boxes) >= _MIN_BOX_IOU) & same_class & other_view


def _one_of_each_view(found: ViewDetections, best: int, rows: Tensor) -> Tensor:
    """Return those of `rows` that join the cluster of the row `best`."""
    if not len(rows):
        return rows
    ious = _overlaps(found, best, rows)
    rows, ious = rows[ious >= MIN_IOU], ious[ious >= MIN_IOU]
    rows = rows[ious.argsort(descending=True, stable=True)]
    views = found.view_idx[rows].tolist()
    first = [at for at, view in enumerate(views) if view not in views[:at]]
    return rows[first]


def _overlaps(found: ViewDetections, best: int, rows: Tensor) -> Tensor:
    """(len(rows),) IoU of the masks with that of the row `best`; of the boxes without masks."""
    if found.masks is None:
        return pairwise_iou(Boxes(found.boxes[[best]]), Boxes(found.boxes[rows]))[0]
    rows = torch.cat([torch.tensor([best]), rows])
    boxes, masks = found.boxes[rows], found.masks[rows]
    origin, end = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    x0, y0, x1, y1 = ((boxes - origin.repeat(2)) / (end - origin).repeat(2) * _GRID).unbind(1)
    along_x = _interpolation(x0, x1, _GRID, masks.shape[2]).to(masks)
    along_y = _interpolation(y0, y1, _GRID, masks.shape[1]).to(masks)
    with full_precision(masks.device):
        inside = (along_y @ masks @ along_x.mT >= 0.5).flatten(1)  # (1 + R, _GRID**2)
    both = (inside[1:] & inside[0]).sum(1)
    return both / (inside[1:] | inside[0]).sum(1).clamp(min=1)


def _average(found: ViewDetections, clusters: list[Tensor], num_views: int) -> Merged:
    scores = found.scores.new_tensor([found.scores[rows].sum() / num_views for rows in clusters])
    order = scores.argsort(descending=True, stable=True).tolist()
    clusters = [clusters[place] for place in order]
    best = torch.tensor([int(members[0]) for members in clusters], dtype=torch.int64)
    boxes = found.boxes.new_empty(len(clusters), 4)
    for row, members in enumerate(clusters):
        weights = found.scores[members].to(boxes)
        boxes[row] = weights @ found.boxes[members] / weights.sum()
    return Merged(boxes, scores[order], found.classes[best], found.query_idx[best], clusters)


def _interpolation(start: Tensor, end: Tensor, length: int, size: int) -> Tensor:
    """Return bilinear weights of a mask's elements for pixels along one axis.

    Args:
        start, end: (m,) the boxes, in pixels.
        length: pixels, from 0 on.
        size: elements of a mask; beyond them lie zeros.

    Returns:
        (m, length, size).
    """
    pixels = torch.arange(length, dtype=start.dtype) + 0.5
    places = (pixels - start[:, None]) / (end - start)[:, None] * size - 0.5
    elements = torch.arange(size, dtype=start.dtype)
    return (1 - (places[..., None] - elements).abs()).clamp(min=0)
