"""What the parts of the model hand to each other."""

from typing import NamedTuple

from torch import Tensor


class StageOutput(NamedTuple):
    """What one box stage says of all queries of a batch.

    N images, Q queries, K classes, C channels.
    """

    class_logits: Tensor  # (N, Q, K), before the sigmoid
    boxes: Tensor  # (N, Q, 4) XYXY_ABS in pixels of the resized, unpadded image; not clipped to it
    query_feats: Tensor  # (N, Q, C), after the feed-forward network: the next stage's queries
    mask_queries: Tensor  # (N, Q, C), after the self-attention: the mask head's queries


class MatchedIndices(NamedTuple):
    """Which query stands for which ground-truth instance: rows of one image or of a whole batch."""

    query_idx: Tensor  # (M,) int64
    gt_idx: Tensor  # (M,) int64
