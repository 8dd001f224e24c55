"""RoIAlign on the CPU as a weighted embedding bag."""

import torch
from detectron2.layers import ROIAlign
from torch import Tensor

from .roi_bags import Bags, pool_bags


class BagROIAlign(ROIAlign):
    """Detectron2's ROIAlign, several times faster on the CPU.

    A pooled bin is a weighted sum of pixels: sampling_ratio^2 samples of four bilinear neighbours
    each. With the features as a table of one row per pixel that is ``F.embedding_bag``, which runs
    on all cores, forward and backward; torchvision's kernel for the CPU runs on one. Other devices,
    adaptive sampling, half precision, tracing and export are left to torchvision.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool.

        Args:
            input: (N, C, H, W); fastest if channels lie innermost in memory.
            rois: (R, 5) image of the batch, then XYXY in pixels. R may be zero.

        Returns:
            (R, C, output_size, output_size). Gradients go to the features, not to the RoIs.
        """
        if not self.takes(input):
            return super().forward(input, rois)
        bags = self.bags(input, rois, torch.arange(len(rois)))
        height, width = self.output_size
        pooled = pool_bags([input], [bags], len(rois), height * width)  # (R, H*W, C)
        return pooled.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    def takes(self, features: Tensor) -> bool:
        """Whether these features (N, C, H, W) are pooled here and not by torchvision."""
        return (
            features.device.type == "cpu"
            and features.dtype in (torch.float32, torch.float64)
            and self.aligned
            and self.sampling_ratio > 0
            and features.numel() > 0
            and not torch.jit.is_tracing()
            and not _is_exporting()
        )

    @torch.no_grad()
    def bags(self, features: Tensor, rois: Tensor, rows: Tensor) -> Bags:
        """What each bin takes from the features (N, C, H, W).

        Args:
            rois: (r, 5) as `forward`'s.
            rows: (r,) their rows in the result of `pool_bags`.
        """
        _, _, height, width = features.shape
        rois = rois.to(features.dtype)
        bins_y, bins_x = self.output_size
        y, weight_y = self._axis(rois[:, 2], rois[:, 4], height, bins_y)
        x, weight_x = self._axis(rois[:, 1], rois[:, 3], width, bins_x)
        first = rois[:, 0].int()[:, None, None] * height  # the image's first row of pixels
        pixels = ((first + y) * width)[:, :, None, :, None] + x[:, None, :, None, :]
        weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
        num_bins = len(rois) * bins_y * bins_x
        per_bin = (2 * self.sampling_ratio) ** 2
        return Bags(rows, pixels.reshape(num_bins, per_bin), weights.reshape(num_bins, per_bin))

    def _axis(self, start: Tensor, end: Tensor, length: int, bins: int) -> tuple[Tensor, Tensor]:
        """Neighbours along one axis.

        Args:
            start, end: (R,) in pixels of the image.
            length: pixels of the features.

        Returns:
            Indices, int32, and weights, each (R, bins, 2 * sampling_ratio). A sample that lies
            more than a pixel outside weighs nothing; others outside take the border.
        """
        ratio = self.sampling_ratio
        start, end = start * self.spatial_scale - 0.5, end * self.spatial_scale - 0.5
        steps = torch.arange(bins * ratio, dtype=start.dtype) + 0.5
        at = start[:, None] + steps * ((end - start) / (bins * ratio))[:, None]  # (R, bins*ratio)
        # NaN, of RoIs without a defined size, is not inside either.
        inside = ((at >= -1) & (at <= length)).to(at)
        at = at.nan_to_num(0.0).clamp(0, length - 1)
        low = at.floor()
        fraction = at - low
        weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / ratio
        low = low.int()
        indices = torch.stack([low, (low + 1).clamp(max=length - 1)], dim=-1)
        return indices.unflatten(1, (bins, ratio)).flatten(2), weights.unflatten(
            1, (bins, ratio)
        ).flatten(2)


def _is_exporting() -> bool:
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch >= 2.7
    return is_exporting is not None and is_exporting()
