"""The learned boxes and features that enter the first stage."""

import torch
from detectron2.config import configurable
from torch import Tensor, nn


class InitialQueries(nn.Module):
    """The learned boxes and features, equal for all images, that enter the first stage."""

    @configurable
    def __init__(self, *, num_queries: int, embed_dim: int):
        """
        Raises:
            ValueError: there is no query.
        """
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"{num_queries=} must be >= 1; set MODEL.QUERYINST.NUM_QUERIES")
        whole_image = torch.tensor([0.5, 0.5, 1.0, 1.0])
        self.boxes_cxcywh_norm = nn.Parameter(whole_image.repeat(num_queries, 1))  # (Q, 4)
        self.query_feats = nn.Parameter(torch.randn(num_queries, embed_dim))  # (Q, C)

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {"num_queries": queryinst.NUM_QUERIES, "embed_dim": queryinst.EMBED_DIM}

    def forward(self, whwh: Tensor) -> tuple[Tensor, Tensor]:
        """The queries of each image of a batch.

        Args:
            whwh: (N, 4) width, height, width, height of the unpadded images, in pixels.

        Returns:
            boxes (N, Q, 4) XYXY_ABS, neither clamped nor clipped (mmdet ``EmbeddingRPNHead``), and
            query features (N, Q, C), a view for all images.
        """
        center, size = self.boxes_cxcywh_norm.chunk(2, dim=1)
        boxes_norm = torch.cat([center - 0.5 * size, center + 0.5 * size], dim=1)
        boxes = boxes_norm[None] * whwh[:, None].to(boxes_norm)
        return boxes, self.query_feats.expand(len(whwh), -1, -1)
