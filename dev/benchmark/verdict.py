"""Whether two sides computed the same: a fast wrong answer is no answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Check(NamedTuple):
    """One comparison; `limit` is the most that `value` may be."""

    name: str
    value: float
    limit: float

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit  # so that NaN is not


class Limits(NamedTuple):
    """Largest differences.

    Attributes:
        exchanged: detections of one side alone.
        score: absolute.
        box: pixels of the output.
        pixels: share of the masks' pixels; those at a score of a half may fall to either side.
        first_loss: of each loss but the masks', relative, before any optimizer step.
        first_mask_loss: of each mask loss; a bin that a mask covers by half may be a target on one
            side alone, and with a straight edge so may its whole row.
        later_loss: of the total, relative, after steps whose rounding AdamW magnifies; the first
            few count, since dozens of steps on one batch drift apart by rounding alone.
    """

    exchanged: int
    score: float
    box: float
    pixels: float
    first_loss: float
    first_mask_loss: float
    later_loss: float


SINGLE = Limits(0, 1e-4, 0.05, 1e-4, 1e-4, 5e-3, 1e-2)
# TF32 has ten bits. cuDNN convolves in it by default.
TF32 = Limits(5, 0.02, 4.0, 5e-3, 0.02, 0.02, 0.05)
# Half precision: what it costs in accuracy, not whether it is right.
HALF = Limits(15, 0.1, 20.0, 0.05, 0.1, 0.1, 0.2)

_NUM_STEPS = 3  # of which `compare_losses` looks at the losses

Detections = Mapping[str, Tensor]


def compare_detections(
    ours: Sequence[Detections], theirs: Sequence[Detections], limits: Limits = SINGLE
) -> list[Check]:
    """Detections of the same images.

    Args:
        ours, theirs: for each image topk (D,), scores (D,), boxes (D, 4), masks (D, H, W). Where
            this side keeps fewer, MMDetection's best as many count, which a GPU does not sort.
    """
    if len(ours) != len(theirs):
        return [Check("images that one side lacks", abs(len(ours) - len(theirs)), 0)]
    exchanged, scores, boxes, pixels = [], [], [], []
    for our_image, their_image in zip(ours, theirs):
        count = len(our_image["topk"])
        best = their_image["scores"].sort(descending=True, stable=True)[1][:count]
        their_image = {key: value[best] for key, value in their_image.items()}
        if len(their_image["topk"]) < count:
            return [Check("detections too many", count - len(their_image["topk"]), 0)]
        rows, columns = torch.nonzero(
            our_image["topk"][:, None] == their_image["topk"][None], as_tuple=True
        )
        exchanged.append(count - len(rows))
        if not len(rows):
            continue
        a = {key: value[rows] for key, value in our_image.items()}
        b = {key: value[columns] for key, value in their_image.items()}
        scores.append((a["scores"] - b["scores"]).abs().max())
        boxes.append((a["boxes"] - b["boxes"]).abs().max())
        pixels.append((a["masks"] != b["masks"]).float().mean())
    return [
        Check("detections of one side alone", _worst(exchanged), limits.exchanged),
        Check("scores", _worst(scores), limits.score),
        Check("boxes [px]", _worst(boxes), limits.box),
        Check("share of mask pixels", _worst(pixels), limits.pixels),
    ]


def compare_losses(
    ours: Sequence[Mapping[str, float]],
    theirs: Sequence[Mapping[str, float]],
    limits: Limits = SINGLE,
) -> list[Check]:
    """Losses by name, of one step after the other, from the same weights on the same batch."""
    names = ours[0].keys() ^ theirs[0].keys()
    if names or len(ours) != len(theirs):
        return [Check("losses or steps that one side lacks", len(names) + 1, 0)]
    first = {k: abs(ours[0][k] - v) / abs(v) for k, v in theirs[0].items()}
    masks = _worst(value for name, value in first.items() if "mask" in name)
    others = _worst(value for name, value in first.items() if "mask" not in name)
    later = _worst(
        abs(sum(a.values()) / sum(b.values()) - 1) for a, b in list(zip(ours, theirs))[1:_NUM_STEPS]
    )
    return [
        Check("losses of the first step, relative", others, limits.first_loss),
        Check("mask losses of the first step, relative", masks, limits.first_mask_loss),
        Check("total loss after optimizer steps, relative", later, limits.later_loss),
    ]


def _worst(values: Iterable[float | Tensor]) -> float:
    """The largest; as torch has it, not a number if one is none."""
    return float(torch.tensor([0.0, *map(float, values)], dtype=torch.float64).max())


def unique_queries(detections: Sequence[Detections], num_classes: int) -> list[int]:
    """From how many queries the detections of each image come."""
    return [len(set((image["topk"] // num_classes).tolist())) for image in detections]


def check_unique(numbers: Sequence[int], bounds: tuple[int, int]) -> Check:
    """Trained networks keep a query for one or two classes; so are these weights to do."""
    low, high = bounds
    outside = sum(not low <= number <= high for number in numbers)
    return Check(f"images whose unique kept queries are not {low} to {high}", outside, 0)
