"""The graph of an export: `QueryInst.forward_core` for any batch, height and width."""

import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..modeling import QueryInst
from ..modeling.mask_head import DynamicMaskHead
from ..precision import at_least_fp32
from ..speedups import optimize_for_inference


class ExportedMaskHead(DynamicMaskHead):
    """The mask head whose detections are computed at once: parts would fix their number."""

    def class_scores(self, mask_feats: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """As DynamicMaskHead's."""
        if self.mask_logits.out_channels == 1:
            classes = torch.zeros_like(classes)
        assert self.mask_logits.bias is not None
        kernels = self.mask_logits.weight[classes, :, 0, 0]  # (D, CONV_DIM)
        logits = torch.bmm(kernels[:, None], mask_feats[rows].flatten(2))[:, 0]
        scores = at_least_fp32(logits + self.mask_logits.bias[classes, None]).sigmoid()
        return scores.unflatten(1, mask_feats.shape[2:])


class Core(nn.Module):
    """`QueryInst.forward_core` as a module's forward."""

    def __init__(self, model: QueryInst):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """As `QueryInst.forward_core`; images, boxes and scores are float32."""
        return self.model.forward_core(images.to(self.model.pixel_mean.dtype), image_sizes)


def make_core(model: QueryInst, precision: str = "fp32") -> Core:
    """A copy of a plain model, without speed-ups, that can be recorded for all sizes.

    Args:
        precision: "fp16" for all but boxes, scores and RoIAlign; any other leaves float32.

    Raises:
        ValueError: `model` is in training mode.
    """
    model = optimize_for_inference(model)
    if model.mask_head is not None:
        head = cast(DynamicMaskHead, model.mask_head.stages[-1])
        assert type(head) is DynamicMaskHead
        head.__class__ = ExportedMaskHead
    if precision == "fp16":
        model.half()
        model.initial_queries.boxes_cxcywh_norm.data = (
            model.initial_queries.boxes_cxcywh_norm.float()
        )
        for stage in model.cascade.stages:  # half precision would round boxes by up to a pixel
            cast(nn.Module, stage.cls_logits).float()
            cast(nn.Module, stage.box_deltas).float()
    for parameter in model.parameters():  # not channels last, which no format of files knows
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    return Core(model)


def divisibility(model: QueryInst) -> int:
    """What the height and the width of a padded batch are multiples of."""
    return max(model.backbone.size_divisibility, 1)


def record(core: Core, size: tuple[int, int] | None) -> ExportedProgram:
    """Record the graph with torch.export.

    Args:
        size: height, width of all padded batches; None leaves both open. The batch always is.

    Returns:
        The program of images (N, 3, H, W) float32, normalized and padded, and image_sizes (N, 2)
        int64; its outputs are those of `QueryInst.forward_core`.
    """
    step = divisibility(core.model)
    height, width = size or (5 * step, 7 * step)  # numbers that nothing else in the graph is
    images = torch.zeros(2, 3, height, width, device=core.model.device)
    image_sizes = torch.tensor([[height, width], [height - 1, width - 2]], device=images.device)
    batch = Dim("batch", min=1)
    sides = {} if size else {2: step * Dim("rows", min=1), 3: step * Dim("columns", min=1)}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its operator is private to torch
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torchvision's shape of nms calls it by its old name.
            warnings.filterwarnings("ignore", ".*create_unbacked_symint.*")
            program = torch.export.export(
                core,
                (images, image_sizes),
                dynamic_shapes={"images": {0: batch, **sides}, "image_sizes": {0: batch}},
                strict=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    _remove_assertions(program.graph)
    return program


def _remove_assertions(graph: torch.fx.Graph) -> None:
    """Of numbers of RoIs. torchvision tells torch.export that nms keeps at least two boxes."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
