"""DynamicBoxHead: one stage of the box cascade."""

import math

import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor, nn

from ..precision import full_precision
from .dynamic_conv import DynamicConv


class NormedFC(nn.Module):
    """Linear without bias, LayerNorm, ReLU: the hidden layer of the class and box branches."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(x)))


class DynamicBoxHead(nn.Module):
    """Queries attend to each other, then each filters its RoI and predicts its class and box.

    QueryInst, section 3.1; mmdet ``DIIHead``. Post-norm throughout.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dynamic_dim: int,
        roi_size: int,
        num_cls_fcs: int,
        num_reg_fcs: int,
        dropout: float,
        prior_prob: float,
    ):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.self_attn_norm = nn.LayerNorm(embed_dim)
        self.dynamic_conv = DynamicConv(embed_dim=embed_dim, hidden_dim=dynamic_dim)
        self.roi_proj = nn.Linear(roi_size * roi_size * embed_dim, embed_dim)
        self.roi_proj_norm = nn.LayerNorm(embed_dim)
        self.dynamic_conv_norm = nn.LayerNorm(embed_dim)
        self.ffn_in = nn.Linear(embed_dim, ffn_dim)
        self.ffn_out = nn.Linear(ffn_dim, embed_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.cls_fcs = nn.Sequential(*(NormedFC(embed_dim) for _ in range(num_cls_fcs)))
        self.cls_logits = nn.Linear(embed_dim, num_classes)
        self.reg_fcs = nn.Sequential(*(NormedFC(embed_dim) for _ in range(num_reg_fcs)))
        self.box_deltas = nn.Linear(embed_dim, 4)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters(prior_prob)

    @classmethod
    def from_config(cls, cfg):
        queryinst = cfg.MODEL.QUERYINST
        return {
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "embed_dim": queryinst.EMBED_DIM,
            "num_heads": queryinst.NUM_HEADS,
            "ffn_dim": queryinst.FFN_DIM,
            "dynamic_dim": queryinst.DYNAMIC_DIM,
            "roi_size": cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION,
            "num_cls_fcs": queryinst.NUM_CLS_FCS,
            "num_reg_fcs": queryinst.NUM_REG_FCS,
            "dropout": queryinst.DROPOUT,
            "prior_prob": queryinst.PRIOR_PROB,
        }

    def reset_parameters(self, prior_prob: float) -> None:
        """Xavier uniform for matrices; the class bias gives a score of `prior_prob`."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        nn.init.zeros_(self.box_deltas.bias)

    def forward(self, query_feats: Tensor, roi_feats: Tensor):
        """Run one stage for all queries.

        Args:
            query_feats: (N, Q, C).
            roi_feats: (N*Q, C, H, W), 7x7, of the queries' boxes.

        Returns:
            class_logits (N, Q, K) and deltas (N, Q, 4) for Box2BoxTransform, in the parameters'
            dtype under autocast as well; the next stage's query_feats (N, Q, C) and mask_queries
            (N, Q, C): the queries after self-attention.
        """
        attended = self.self_attn(query_feats, query_feats, query_feats, need_weights=False)[0]
        mask_queries = self.self_attn_norm(query_feats + attended)
        x = self.dynamic_conv(mask_queries.flatten(0, 1), roi_feats)
        x = x.flatten(2).transpose(1, 2).flatten(1)  # (R, H*W*C): the order of mmdet's weights
        x = F.relu(self.roi_proj_norm(self.roi_proj(x))).view_as(mask_queries)
        query_feats = self.dynamic_conv_norm(mask_queries + self.dropout(x))
        hidden = self.dropout(F.relu(self.ffn_in(query_feats)))
        query_feats = self.ffn_norm(query_feats + self.dropout(self.ffn_out(hidden)))
        class_logits = _without_autocast(self.cls_logits, self.cls_fcs(query_feats))
        deltas = _without_autocast(self.box_deltas, self.reg_fcs(query_feats))
        return class_logits, deltas, query_feats, mask_queries


def _without_autocast(linear: nn.Linear, x: Tensor) -> Tensor:
    """Half precision would round boxes by up to a pixel, and logits until they tie."""
    with full_precision(x.device):
        return linear(x.to(getattr(linear.weight, "dtype", x.dtype)))
