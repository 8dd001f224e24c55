"""Differences between two records of `our_runs` and `mmdet_runs`, quantity by quantity."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Record = Mapping[str, Tensor]

# Key -> what a table calls it; the first fit. Numbers of stages and images are left out, as
# `compare` adds the stages itself.
_QUANTITIES = (
    (r"input", "input"),
    (r"fpn/.*", "FPN features"),
    (r"stage\d+/pooled_box", "7x7 RoI features"),
    (r"stage\d+/pooled_mask", "14x14 RoI features"),
    (r"stage\d+/boxes", "boxes [px]"),
    (r"stage\d+/class_logits", "class logits"),
    (r"stage\d+/query_feats", "query features"),
    (r"stage\d+/mask_queries", "mask queries"),
    (r"stage\d+/mask_logits", "mask logits"),
    (r"stage\d+/matches", "matches"),
    (r"stage\d+/mask_targets", "mask targets"),
    (r"loss/loss_(.*)_stage\d+", r"loss \1"),
    (r"grad/.*", "gradients"),
    (r"buffer/.*", "batch norm statistics"),
    (r"parameter/.*", "parameters after a step"),
    (r"image\d+/topk", "top-k set"),
    (r"image\d+/scores", "scores"),
    (r"image\d+/boxes", "detected boxes [px]"),
    (r"image\d+/mask_scores", "28x28 mask scores"),
    (r"image\d+/output_topk", "detections not dropped"),
    (r"image\d+/output_boxes", "rescaled boxes [px]"),
    (r"image\d+/output_masks", "pasted masks"),
)


@dataclass
class Difference:
    """Of one quantity, over all tensors that belong to it.

    Attributes:
        largest: absolute difference, the largest; for integers and bools, how many differ.
        scale: largest absolute value of the reference.
        relative_norm: norm of the difference over the norm of the reference, of all together.
        worst_norm: the same for the one tensor where it is largest, `worst` its key.
    """

    exact: bool
    largest: float = 0.0
    count: int = 0
    scale: float = 0.0
    worst_norm: float = 0.0
    worst: str = ""
    _squares: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def relative_norm(self) -> float:
        difference, reference = self._squares
        return (difference / reference) ** 0.5 if reference else float(difference > 0)

    def figures(self) -> dict[str, float]:
        """As plain numbers."""
        names = ("largest", "count", "scale", "relative_norm", "worst_norm")
        return {name: getattr(self, name) for name in names}

    def add(self, key: str, ours: Tensor, theirs: Tensor) -> None:
        self.count += theirs.numel()
        if self.exact:
            self.largest += int((ours != theirs).sum())
            return
        if not theirs.numel():
            return
        theirs = theirs.double()
        self.scale = max(self.scale, float(theirs.abs().max()))
        difference = ours.double() - theirs
        largest = float(difference.abs().max())
        assert largest == largest, f"{key}: not a number"  # which max() would drop
        self.largest = max(self.largest, largest)
        squares = float(difference.square().sum()), float(theirs.square().sum())
        self._squares = [a + b for a, b in zip(self._squares, squares)]
        norm = (squares[0] / squares[1]) ** 0.5 if squares[1] else float(squares[0] > 0)
        if not norm <= self.worst_norm:
            self.worst_norm, self.worst = norm, key


def quantity_of(key: str) -> str:
    """The name in tables.

    Raises:
        KeyError: no quantity of that key.
    """
    for pattern, name in _QUANTITIES:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    raise KeyError(key)


def compare(ours: Record, theirs: Record, *, by_stage: bool = False) -> dict[str, Difference]:
    """Differences by quantity, of records with equal keys.

    Args:
        by_stage: a row for each stage where a quantity has stages.

    Raises:
        AssertionError: keys or shapes differ, or a difference is not a number.
    """
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:8]
    differences: dict[str, Difference] = {}
    for key, reference in theirs.items():
        value = ours[key]
        assert value.shape == reference.shape, (key, value.shape, reference.shape)
        name = quantity_of(key)
        if by_stage and (stage := re.search(r"stage(\d+)", key)):
            name += f", stage {stage[1]}"
        exact = not reference.is_floating_point()
        row = differences.setdefault(name, Difference(exact))
        row.add(key, value, reference)
    return differences


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """To an image of (height, width), as this project's output has them and MMDetection's not."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def drop_without_area(record: Record, sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """MMDetection's record of a prediction, with the output as this project has it.

    Boxes are clipped to the image of (height, width), and detections whose box then has no area are
    dropped. "output_topk" tells those that are left.
    """
    result = dict(record)
    for image, size in enumerate(sizes):
        boxes = clip_boxes(record[f"image{image}/output_boxes"], size)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        result[f"image{image}/output_topk"] = record[f"image{image}/topk"][has_area]
        result[f"image{image}/output_boxes"] = boxes[has_area]
        result[f"image{image}/output_masks"] = record[f"image{image}/output_masks"][has_area]
    return result


def in_our_names(record: Record, convert) -> dict[str, Tensor]:
    """Gradients, buffers and parameters under this project's names.

    Args:
        convert: `queryinst.checkpoint.convert_mmdet_state_dict`.
    """
    renamed = {key: value for key, value in record.items() if not _has_name(key)}
    for group in ("grad", "buffer", "parameter"):
        theirs = {
            key.partition("/")[2]: value
            for key, value in record.items()
            if key.startswith(f"{group}/")
        }
        ours = convert(theirs)
        assert len(ours) == len(theirs)
        renamed.update({f"{group}/{name}": value for name, value in ours.items()})
    return renamed


def _has_name(key: str) -> bool:
    return key.startswith(("grad/", "buffer/", "parameter/"))


def stack_boxes(record: Record) -> Tensor:
    """All boxes of all stages, (*, 4)."""
    boxes = [value for key, value in record.items() if re.fullmatch(r"stage\d+/boxes", key)]
    return torch.stack(boxes).flatten(0, -2)


def level_margin(boxes: Tensor) -> float:
    """How far, relative to its size, a box is from changing its pyramid level, at the least."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-9).prod(dim=1).sqrt()
    return min(float((sides / switch).log().abs().min()) for switch in (112, 224, 448))
