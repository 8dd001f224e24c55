"""What the parts of the model hand to each other."""

from typing import NamedTuple

from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor


class StageOutput(NamedTuple):
    """What one box stage predicts for all queries of a batch.

    N images, Q queries, K classes, C channels.
    """

    class_logits: Tensor  # (N, Q, K), before the sigmoid
    boxes: Tensor  # (N, Q, 4) XYXY_ABS in pixels of the resized, unpadded image; not clipped to it
    query_feats: Tensor  # (N, Q, C), after the feed-forward network: the next stage's queries
    mask_queries: Tensor  # (N, Q, C), after the self-attention: the mask head's queries


class Detections(NamedTuple):
    """The k best pairs of query and class of each image, by falling score."""

    boxes: Tensor  # (N, k, 4) XYXY_ABS in pixels of the resized, unpadded image; not clipped
    scores: Tensor  # (N, k)
    classes: Tensor  # (N, k) int64
    query_idx: Tensor  # (N, k) int64, in [0, Q); a query may appear once for each class


class MatchedIndices(NamedTuple):
    """Which query is matched to which ground-truth instance, row by row.

    Of one image: query_idx in [0, Q), gt_idx in [0, G). Of a batch: query_idx counts the rows of
    (N, Q) flattened, gt_idx those of `BatchTargets`.
    """

    query_idx: Tensor  # (M,) int64
    gt_idx: Tensor  # (M,) int64


class BatchTargets(NamedTuple):
    """The ground truth of a batch, all images' instances in one row; G of them."""

    boxes: Tensor  # (G, 4) XYXY_ABS in pixels of the resized, unpadded image
    classes: Tensor  # (G,) int64
    num_per_image: list[int]  # N numbers, which sum to G
    whwh: Tensor  # (N, 4) width, height, width, height of each unpadded image, in pixels
    masks: list[BitMasks | PolygonMasks] | None  # N entries; None for a box detector
    num_groups: int = 1  # rows of each image, one behind the other; N counts all of them


class WholeBatch(NamedTuple):
    """What a part of a batch needs to know of the whole, so that the parts' losses add up to it."""

    num_instances: tuple[int, ...]  # of each image
    size: tuple[int, int]  # height, width in pixels: the largest, which all images are padded to


class PreciseBoxes(Boxes):
    """Boxes that keep float64. Detectron2's own cast to float32."""

    def __init__(self, tensor: Tensor):
        """tensor: (R, 4) XYXY_ABS."""
        self.tensor = tensor

    def clone(self) -> "PreciseBoxes":
        return PreciseBoxes(self.tensor.clone())

    def to(self, device) -> "PreciseBoxes":
        return PreciseBoxes(self.tensor.to(device=device))

    def __getitem__(self, item) -> "PreciseBoxes":
        return PreciseBoxes(self.tensor[item].view(-1, 4))
