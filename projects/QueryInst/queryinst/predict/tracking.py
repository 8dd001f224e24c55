"""Identities of objects from frame to frame: Detectron2's Hungarian tracker, with motion."""

from collections import deque
from dataclasses import replace

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.tracking.hungarian_tracker import BaseHungarianTracker
from scipy.optimize import linear_sum_assignment

from queryinst_runtime.results import Result

_LOST_FRAMES = 10  # after which an object that was not found again is given up
_GRID = 640  # points, at most, along the longer side of a frame, at which masks are compared
_FEW_POINTS = 16  # of a mask so small that its box says more
_LEAST = 0.1  # similarity of what may be the same object
_IOU, _INSIDE, _NEARNESS = 0.5, 0.2, 0.3  # weights in the similarity
_REACH = 1.0  # sizes of an object, within which it is near to where it is expected
_REACH_AT_FIRST = 2.0  # where its motion is not known yet
_OBSERVATIONS = 6  # of which the motion is the mean
_WHOLE = (0.9, 1.15)  # times its usual area: outside of it, an object is hidden in part
_SMALLER_FRAMES, _LARGER_FRAMES = 30, 3  # in a row, after which its size is taken to have changed

_Mask = tuple[int, int, np.ndarray]  # top and left, in steps of the grid, and (h, w) bool


class Tracker(BaseHungarianTracker):
    """Gives the objects of a video's results their `track_ids`, from 1; none is given twice.

    Detectron2's tracker keeps the identities: it assigns objects to those of the frames before at
    the least total cost, and holds on to lost ones for `max_lost_frame_count` frames. Different
    from its own `IOUWeightedHungarianBBoxIOUTracker`:

    - An object is expected where its motion, the mean of its last frames, takes it, also while it
      is lost; one that has left the frame is given up.
    - Cost is overlap of masks, where there are any, and nearness. Of two objects that cross, the
      masks of the visible parts stay apart while the boxes fall together. A half-hidden object
      keeps its motion.
    - Objects of two classes are never the same.
    - What has no overlap and is not near is not assigned, though nothing else is left: Detectron2
      assigns as many objects as it can, below its threshold too.
    - Lost objects are not among the results.
    """

    _prev_instances: Instances | None

    def __init__(self, max_lost_frame_count: int = _LOST_FRAMES):
        """
        Args:
            max_lost_frame_count: frames in a row in which an object may be missing.
        """
        # No least size, and no least number of frames: the sides of the video are of no use then.
        super().__init__(
            video_height=1,
            video_width=1,
            max_lost_frame_count=max_lost_frame_count,
            min_box_rel_dim=0.0,
            min_instance_period=0,
        )
        self._motions: dict[int, _Motion] = {}  # of the identities in `_prev_instances`
        self._found: list[_Shape] = []  # of the frame
        self._frame = -1

    def track(self, result: Result) -> Result:
        """The result of the next frame, with `track_ids`."""
        self._frame += 1
        self._found = _shapes_of(result)
        instances = self.update(_instances_of(result))
        ids = instances.ID[: len(result)]
        for identity, shape in zip(ids, self._found):
            if identity not in self._motions:
                self._motions[identity] = _Motion()
            self._motions[identity].observe(self._frame, shape)
        assert self._prev_instances is not None
        kept = set(self._prev_instances.ID)
        self._motions = {key: value for key, value in self._motions.items() if key in kept}
        return replace(result, track_ids=np.array(ids, np.int64) + 1)

    def update(self, instances: Instances) -> Instances:
        """As Detectron2's; the objects come first, those that are lost behind them."""
        instances = self._initialize_extra_fields(instances)
        if self._prev_instances is not None:
            cost = self.build_cost_matrix(instances, self._prev_instances)
            indices, prev_indices = linear_sum_assignment(cost)
            is_match = cost[indices, prev_indices] < 0
            indices, prev_indices = indices[is_match], prev_indices[is_match]
            instances = self._process_matched_idx(instances, indices, prev_indices)
            instances = self._process_unmatched_idx(instances, indices)
            instances = self._process_unmatched_prev_idx(instances, prev_indices)
        self._prev_instances = instances
        return instances

    def build_cost_matrix(self, instances: Instances, prev_instances: Instances) -> np.ndarray:
        """(n, m): the negative similarity; 0 for what is not the same object."""
        cost = np.zeros((len(instances), len(prev_instances)))
        classes, prev_classes = instances.pred_classes, prev_instances.pred_classes
        for j, identity in enumerate(prev_instances.ID):
            expected, reach = self._motions[identity].expect(self._frame)
            if prev_instances.lost_frame_count[j] and expected.is_outside(*instances.image_size):
                continue
            for i, shape in enumerate(self._found):
                if classes[i] == prev_classes[j]:
                    similarity = expected.similarity(shape, reach)
                    cost[i, j] = -similarity if similarity >= _LEAST else 0
        return cost


class _Shape:
    """Where an object is, and its mask at the points of a grid."""

    def __init__(self, box: np.ndarray, step: int, mask: _Mask | None):
        """
        Args:
            box: (4,) XYXY in pixels.
            step: pixels between the points of the grid.
            mask: None if boxes are to be compared.
        """
        self.box, self.step, self.mask = box, step, mask

    @property
    def center(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def area(self) -> float:
        return float(np.prod(self.box[2:] - self.box[:2]))

    def is_outside(self, height: int, width: int) -> bool:
        x1, y1, x2, y2 = self.box
        return bool(x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height)

    def moved(self, shift: np.ndarray) -> "_Shape":
        """The same elsewhere; shift: (2,) pixels."""
        mask = self.mask
        if mask is not None:
            right, down = np.round(shift / self.step).astype(int).tolist()
            mask = mask[0] + down, mask[1] + right, mask[2]
        return _Shape(self.box + np.tile(shift, 2), self.step, mask)

    def similarity(self, other: "_Shape", reach: float) -> float:
        """Overlap and nearness, from 0 to 1; reach: in sizes of the larger."""
        smaller, larger = sorted((self.area, other.area))
        larger = max(larger, 1e-9)
        distance = np.linalg.norm(self.center - other.center) / larger**0.5
        nearness = max(1 - distance / reach, 0) * smaller / larger
        both, mine, others = self._overlap(other)
        iou = both / max(mine + others - both, 1e-9)
        inside = both / max(min(mine, others), 1e-9)  # of what is hidden, all that is left
        return _IOU * iou + _INSIDE * inside + _NEARNESS * nearness

    def _overlap(self, other: "_Shape") -> tuple[float, float, float]:
        """The areas of both together, of this one, and of the other, as masks or else boxes."""
        size = np.minimum(self.box[2:], other.box[2:]) - np.maximum(self.box[:2], other.box[:2])
        both = float(np.prod(size.clip(0)))
        if self.mask is None or other.mask is None or not both:
            return both, self.area, other.area
        mine, others = self._common(other.mask), other._common(self.mask)
        return int((mine & others).sum()), int(self.mask[2].sum()), int(other.mask[2].sum())

    def _common(self, other: _Mask) -> np.ndarray:
        """This mask in the rectangle that it has in common with another."""
        assert self.mask is not None
        (top, left, mask), (other_top, other_left, other_mask) = self.mask, other
        bottom, right = other_top + other_mask.shape[0], other_left + other_mask.shape[1]
        rows = slice(max(other_top - top, 0), max(bottom - top, 0))
        return mask[rows, max(other_left - left, 0) : max(right - left, 0)]


class _Motion:
    """The last places where an object was seen whole, and where it goes from there."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, _Shape]] = deque(maxlen=_OBSERVATIONS)
        self._num_hidden = 0  # frames since then in which a part was seen
        self._shift = np.zeros(2)  # what those parts say against the motion, in pixels

    def observe(self, frame: int, shape: _Shape) -> None:
        usual = float(np.median([seen.area for _, seen in self._seen] or [shape.area]))
        if not _WHOLE[0] * usual <= shape.area <= _WHOLE[1] * usual:
            # At first it grows, as it enters the frame.
            larger_frames = _LARGER_FRAMES if len(self._seen) > 2 else 0
            self._num_hidden += 1
            if self._num_hidden <= (_SMALLER_FRAMES if shape.area < usual else larger_frames):
                self._shift += _way_into(shape.box, self.expect(frame)[0].box)
                return
            self._seen.clear()
        self._num_hidden, self._shift = 0, np.zeros(2)
        self._seen.append((frame, shape))

    def expect(self, frame: int) -> tuple[_Shape, float]:
        """The shape where it should be in a frame, and in which reach of it."""
        (first, start), (last, end) = self._seen[0], self._seen[-1]
        whole = max((shape for _, shape in self._seen), key=lambda shape: shape.area)
        way = end.center - whole.center + self._shift
        if first == last:
            return whole.moved(way), _REACH_AT_FIRST
        speed = (end.center - start.center) / (last - first)
        return whole.moved(way + speed * (frame - last)), _REACH


def _way_into(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(2,): the least way that brings a box `whole`, XYXY, around `part`; 0 along a longer side."""
    low, high = part[:2] - whole[:2], part[2:] - whole[2:]
    return np.where(low < high, 0, 1) * (np.minimum(low, 0) + np.maximum(high, 0))


def _shapes_of(result: Result) -> list[_Shape]:
    step = -(-max(result.image_size) // _GRID)
    return [
        _Shape(box, step, _mask_on_grid(result, index, step))
        for index, box in enumerate(result.boxes.astype(float))
    ]


def _mask_on_grid(result: Result, index: int, step: int) -> _Mask | None:
    if not result.has_masks:
        return None
    top, left, crop = result.crop(index)
    mask = crop[-top % step :: step, -left % step :: step].copy()  # not a view of all pixels
    if mask.sum() < _FEW_POINTS:
        return None
    return -(-top // step), -(-left // step), mask


def _instances_of(result: Result) -> Instances:
    return Instances(
        result.image_size,
        pred_boxes=Boxes(torch.from_numpy(result.boxes.reshape(-1, 4))),
        pred_classes=torch.from_numpy(result.classes),
        scores=torch.from_numpy(result.scores),
    )
