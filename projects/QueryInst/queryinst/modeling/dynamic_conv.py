"""DynamicConv: each RoI is filtered by kernels that its own query generates."""

import torch.nn.functional as F
from torch import Tensor, nn


class DynamicConv(nn.Module):
    """Two 1x1 convolutions per RoI, C -> D -> C, whose kernels come from the RoI's query.

    QueryInst, section 3.2 (DynConv); mmdet ``DynamicConv`` without its projection.
    """

    def __init__(self, *, embed_dim: int, hidden_dim: int):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.kernel_generator = nn.Linear(embed_dim, 2 * embed_dim * hidden_dim)
        self.norm_in = nn.LayerNorm(hidden_dim)
        self.norm_out = nn.LayerNorm(embed_dim)

    def forward(self, query_feats: Tensor, roi_feats: Tensor) -> Tensor:
        """Filter the RoIs.

        Args:
            query_feats: (R, C); row r generates the kernels of RoI r.
            roi_feats: (R, C, H, W), pooled. R may be zero.

        Returns:
            (R, C, H, W), after the last ReLU; channels lie innermost in memory.

        Raises:
            ValueError: the inputs differ in R or C.
        """
        if query_feats.shape != roi_feats.shape[:2]:
            raise ValueError(f"queries {tuple(query_feats.shape)}, RoIs {tuple(roi_feats.shape)}")
        kernel_in, kernel_out = self.generate_kernels(query_feats)
        x = roi_feats.flatten(2).transpose(1, 2)  # (R, H*W, C)
        x = x.to(kernel_in) @ kernel_in.unflatten(1, (x.shape[2], self.hidden_dim))
        x = F.relu_(self.norm_in(x))  # (R, H*W, D)
        x = x @ kernel_out.unflatten(1, (self.hidden_dim, roi_feats.shape[1]))
        x = F.relu_(self.norm_out(x))  # (R, H*W, C)
        return x.transpose(1, 2).unflatten(2, roi_feats.shape[2:])

    def generate_kernels(self, query_feats: Tensor) -> tuple[Tensor, Tensor]:
        """Return two of (R, C*D), for queries (R, C)."""
        kernel_in, kernel_out = self.kernel_generator(query_feats).chunk(2, dim=1)
        return kernel_in, kernel_out
