"""Denoising: further queries of training, which start at the noised boxes of the ground truth."""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import configurable
from torch import Tensor

from ..structures import BatchTargets

LossesOf = Callable[..., tuple[dict[str, Tensor], int]]


class DenoisingQueries:
    """Groups of queries that start near the objects; only training has them.

    After DN-DETR (Li et al., CVPR 2022): from its first step on every stage, the last included,
    sees boxes that are worth refining, and several masks of each object. In contrast to DN-DETR a
    query's features are those of a learned query, objects are matched as always, and a group has
    some queries at random boxes, which mostly learn to be none. Groups are rows of a batch, so that
    no query sees one of another group, and none of the real ones sees a noised box.
    """

    @configurable
    def __init__(self, *, num_groups: int, num_queries: int, noise: float, weight: float):
        """
        Args:
            num_groups: for each image.
            num_queries: in a group; those beyond the objects start at random boxes.
            noise: of centers at most half of it, in sides of the box; of the logarithm of sides to
                base 2 at most it.
            weight: of the losses, against those of the real queries.
        """
        self.num_groups = num_groups
        self.num_queries = num_queries
        self.noise = noise
        self.weight = weight

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "num_groups": queryinst.DENOISING_GROUPS,
            "num_queries": min(queryinst.DENOISING_QUERIES, queryinst.NUM_QUERIES),
            "noise": queryinst.DENOISING_NOISE,
            "weight": queryinst.DENOISING_WEIGHT,
        }

    def __call__(
        self,
        losses_of: LossesOf,
        learned: Tensor,
        targets: BatchTargets,
        num_instances: Sequence[int],
    ) -> dict[str, Tensor]:
        """The losses of these queries, weighted: ``loss_denoising_cls_stage0``, ...

        Args:
            losses_of: from boxes, query features, targets and instances of each row to losses, and
                what these are over.
            learned: (Q, C) features of the learned queries.
            targets: of N images.
            num_instances: of each image of the whole batch.
        """
        targets = repeat_targets(targets, self.num_groups)
        boxes = self.boxes(targets).to(learned)
        query_feats = self.query_feats(learned, len(boxes))
        num_instances = [num for num in num_instances for _ in range(self.num_groups)]
        losses, _ = losses_of(boxes, query_feats, targets, num_instances)
        return {
            name.replace("loss_", "loss_denoising_"): self.weight * loss
            for name, loss in losses.items()
        }

    @torch.no_grad()
    def boxes(self, targets: BatchTargets) -> Tensor:
        """Draw boxes, from the global generator of the CPU.

        Args:
            targets: of R rows.

        Returns:
            (R, num_queries, 4) XYXY_ABS, not clipped: first the noised boxes of the objects, of as
            many as there is room for, in any order; then boxes of a tenth to half the image's
            sides, with their centers anywhere in it.
        """
        device, num_rows = targets.boxes.device, len(targets.num_per_image)
        numbers = torch.rand(num_rows, self.num_queries, 4).to(targets.boxes)
        whwh = targets.whwh[:, None].to(targets.boxes)
        boxes = torch.cat([numbers[..., :2], 0.1 + 0.4 * numbers[..., 2:]], dim=-1) * whwh
        noise = self.noise * (2 * torch.rand(len(targets.boxes), 4) - 1).to(targets.boxes)
        size = targets.boxes[:, 2:] - targets.boxes[:, :2]
        center = targets.boxes[:, :2] + (0.5 + 0.5 * noise[:, :2]) * size
        noised = torch.cat([center, size * noise[:, 2:].exp2()], dim=1)
        rows, places, objects, first = [], [], [], 0  # on the CPU, to be sent at once
        for row, num in enumerate(targets.num_per_image):
            chosen = torch.randperm(num)[: self.num_queries]
            rows.append(torch.full_like(chosen, row))
            places.append(torch.arange(len(chosen)))
            objects.append(chosen + first)
            first += num
        index = torch.stack([torch.cat(x) for x in (rows, places, objects)]).to(device)
        boxes[index[0], index[1]] = noised[index[2]]
        center, half = boxes[..., :2], 0.5 * boxes[..., 2:]
        return torch.cat([center - half, center + half], dim=-1)

    def query_feats(self, learned: Tensor, num_rows: int) -> Tensor:
        """Choose features for each row among the learned ones, each at most once.

        Args:
            learned: (Q, C).

        Returns:
            (num_rows, num_queries, C).
        """
        order = torch.rand(num_rows, len(learned)).argsort(dim=1)
        return learned[order[:, : self.num_queries].to(learned.device)]


def repeat_targets(targets: BatchTargets, times: int) -> BatchTargets:
    """Targets of a batch in which each image comes `times` times, one behind the other."""
    nums = targets.num_per_image

    def repeat(values: Tensor) -> Tensor:
        return torch.cat([part for part in values.split(nums) for _ in range(times)])

    masks = targets.masks
    return BatchTargets(
        boxes=repeat(targets.boxes),
        classes=repeat(targets.classes),
        num_per_image=[num for num in nums for _ in range(times)],
        whwh=targets.whwh.repeat_interleave(times, dim=0),
        masks=None if masks is None else [image for image in masks for _ in range(times)],
        num_groups=times,
    )
