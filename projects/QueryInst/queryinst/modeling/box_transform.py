"""Box decoding: Detectron2's transform with the reference's clamp."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from .precision import at_least_fp32


class TwoSidedBox2BoxTransform(Box2BoxTransform):
    """Box2BoxTransform whose dw and dh are clamped on both sides, and which keeps float64.

    mmdet ``DeltaXYWHBBoxCoder`` clamps to +-log(1000 / 16); Detectron2 clamps above only.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Move and scale boxes.

        Args:
            deltas: (..., 4) dx, dy, dw, dh, each times its weight.
            boxes: (..., 4) XYXY_ABS.

        Returns:
            (..., 4) XYXY_ABS, float32 or float64.
        """
        deltas = at_least_fp32(deltas)
        boxes = boxes.to(deltas.dtype)
        # One by one: a tensor of the weights would have to be sent to the device.
        scaled = [delta / weight for delta, weight in zip(deltas.unbind(-1), self.weights)]
        shift, log_scale = torch.stack(scaled, dim=-1).chunk(2, dim=-1)
        log_scale = log_scale.clamp(-self.scale_clamp, self.scale_clamp)
        size = boxes[..., 2:] - boxes[..., :2]
        center = boxes[..., :2] + 0.5 * size
        center = center + shift * size
        half = 0.5 * (log_scale.exp() * size)
        return torch.cat([center - half, center + half], dim=-1)
