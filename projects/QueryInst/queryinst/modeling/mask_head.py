"""The dynamic mask heads, and the branch that runs them on the queries that need a mask."""

from typing import cast

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from ..precision import at_least_fp32
from ..structures import MatchedIndices, StageOutput
from .activation_checkpointing import checkpoint_module
from .conv import build_conv3x3
from .dynamic_conv import DynamicConv
from .pooler import RoIFeaturePooler, to_rois

MAX_FEATURES = 2**22  # floats of mask features that `class_scores` copies at once: 16 MB


class DynamicMaskHead(nn.Module):
    """RoI features filtered by their query, then convolved to class masks of twice their size.

    QueryInst, section 3.2; mmdet ``DynamicMaskHead``.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        dynamic_dim: int,
        num_conv: int,
        conv_dim: int,
        norm: str,
    ):
        """
        Args:
            num_classes: channels of the masks; 1 if they are class-agnostic.
            norm: a name of Detectron2's ``get_norm``. "naiveSyncBN" weighs each process by its
                number of RoIs ("naiveSyncBN_N"), since processes differ in it.

        Raises:
            ValueError: impossible sizes, each with its key.
        """
        super().__init__()
        self.dynamic_conv = DynamicConv(embed_dim=embed_dim, hidden_dim=dynamic_dim)
        self.convs = nn.Sequential()
        channels = embed_dim
        for _ in range(num_conv):
            self.convs.append(build_conv3x3(channels, conv_dim, norm))
            channels = conv_dim
        self.deconv = nn.ConvTranspose2d(channels, conv_dim, kernel_size=2, stride=2)
        self.mask_logits = nn.Conv2d(conv_dim, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg):
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "embed_dim": cfg.MODEL.QUERYINST.EMBED_DIM,
            "dynamic_dim": cfg.MODEL.QUERYINST.DYNAMIC_DIM,
            "num_conv": head.NUM_CONV,
            "conv_dim": head.CONV_DIM,
            "norm": head.NORM,
        }

    def mask_features(self, mask_queries: Tensor, roi_feats: Tensor) -> Tensor:
        """Return what the last 1x1 convolution sees.

        Args:
            mask_queries: (R, C).
            roi_feats: (R, C, H, W), 14x14. R may be zero.

        Returns:
            (R, CONV_DIM, 2H, 2W).
        """
        x = self.dynamic_conv(mask_queries, roi_feats)
        return F.relu_(self.deconv(self.convs(x)))

    def forward(self, mask_queries: Tensor, roi_feats: Tensor) -> Tensor:
        """Return the logits of all classes, (R, K, 2H, 2W); arguments as of `mask_features`."""
        return self.mask_logits(self.mask_features(mask_queries, roi_feats))

    def class_scores(self, mask_feats: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Return each detection's mask in the one class channel that it needs.

        Args:
            mask_feats: (R, CONV_DIM, 2H, 2W) of `mask_features`.
            rows: (D,) the row of `mask_feats` for each detection.
            classes: (D,) its class; any if masks are class-agnostic.

        Returns:
            (D, 2H, 2W) after the sigmoid, float32 or float64.
        """
        if self.mask_logits.out_channels == 1:
            classes = torch.zeros_like(classes)
        kernels = self.mask_logits.weight[classes, :, 0, 0].to(mask_feats)  # (D, CONV_DIM)
        assert self.mask_logits.bias is not None
        biases = self.mask_logits.bias[classes, None].to(mask_feats)
        at_once = max(1, MAX_FEATURES // max(1, mask_feats[:1].numel()))
        parts = zip(kernels.split(at_once), rows.split(at_once))
        logits = torch.cat(
            [torch.bmm(k[:, None], mask_feats[r].flatten(2))[:, 0] for k, r in parts]
        )
        # Pasting samples the scores on a grid of their dtype, too coarse in half precision.
        scores = at_least_fp32(logits + biases).sigmoid()
        return scores.unflatten(1, mask_feats.shape[2:])


class MaskBranch(nn.Module):
    """The 14x14 pooler and one mask head per stage. It runs on chosen queries only."""

    @configurable
    def __init__(self, *, pooler: RoIFeaturePooler, stages: list[nn.Module]):
        """
        Args:
            stages: DynamicMaskHeads. In an inference_only model all but the last are placeholders
                without parameters.
        """
        super().__init__()
        self.pooler = pooler
        self.stages = nn.ModuleList(stages)

    @classmethod
    def from_config(cls, cfg, input_shape):
        num_stages = cfg.MODEL.QUERYINST.NUM_STAGES
        num_absent = max(num_stages - 1, 0) if cfg.MODEL.QUERYINST.INFERENCE_ONLY else 0
        heads = [DynamicMaskHead(cfg) for _ in range(num_stages - num_absent)]
        if "mask_heads" in cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING:
            for head in heads:
                checkpoint_module(head)
        return {
            "pooler": RoIFeaturePooler(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape),
            "stages": [*(nn.Identity() for _ in range(num_absent)), *heads],
        }

    def has_all_heads(self) -> bool:
        return not isinstance(self.stages[0], nn.Identity)

    def make_inference_only(self) -> None:
        """Remove all heads but the last, the one that inference runs. It keeps its name."""
        for index in range(len(self.stages) - 1):
            self.stages[index] = nn.Identity()

    def forward(
        self,
        features: list[Tensor],
        outputs: list[StageOutput],
        matches: list[MatchedIndices],
        num_groups: int = 1,
    ) -> list[Tensor]:
        """Return mask logits of the matched queries of every stage, on its detached boxes.

        Args:
            features: one (N, C, H, W) per level.
            outputs, matches: one per stage; M matched queries in each.
            num_groups: rows of each image, as of QueryCascade.

        Returns:
            One (M, K, 2H, 2W) per stage. With M = 0 and norms that do not talk to other processes
            an empty one that keeps the head's parameters in the graph.
        """
        queries_per_image = num_groups * outputs[0].boxes.shape[1]
        rows = [match.query_idx for match in matches]
        boxes = [output.boxes.detach().flatten(0, 1)[idx] for output, idx in zip(outputs, rows)]
        image_idx = torch.cat(rows).div(queries_per_image, rounding_mode="floor")
        roi_feats = self.pooler(features, to_rois(torch.cat(boxes), image_idx))
        roi_feats = roi_feats.unflatten(0, (len(outputs), len(rows[0])))  # (S, M, C, H, W)
        mask_queries = [o.mask_queries.flatten(0, 1)[idx] for o, idx in zip(outputs, rows)]
        return [
            _run_or_keep_graph(cast(DynamicMaskHead, stage), queries, feats)
            for stage, queries, feats in zip(self.stages, mask_queries, roi_feats)
        ]

    def predict(
        self,
        features: list[Tensor],
        output: StageOutput,
        query_rows: Tensor,
        detection_to_row: Tensor,
        classes: Tensor,
    ) -> Tensor:
        """Return mask scores of detections, by the last stage's head; it runs once for each query.

        Args:
            features: one (N, C, H, W) per level.
            output: of the last box stage.
            query_rows: (R,) rows of (N, Q) flattened, each once.
            detection_to_row: (D,) each detection's place in `query_rows`.
            classes: (D,).

        Returns:
            (D, 2H, 2W) after the sigmoid.
        """
        image_idx = query_rows.div(output.boxes.shape[1], rounding_mode="floor")
        boxes = output.boxes.flatten(0, 1)[query_rows]
        roi_feats = self.pooler(features, to_rois(boxes, image_idx))
        mask_queries = output.mask_queries.flatten(0, 1)[query_rows]
        head = cast(DynamicMaskHead, self.stages[-1])
        mask_feats = head.mask_features(mask_queries, roi_feats)
        return head.class_scores(mask_feats, detection_to_row, classes)


def _run_or_keep_graph(head: DynamicMaskHead, mask_queries: Tensor, roi_feats: Tensor) -> Tensor:
    """Run the head. Batch norm has no statistics without RoIs: then only touch the parameters."""
    synced = (NaiveSyncBatchNorm, nn.SyncBatchNorm)
    others_wait = comm.get_world_size() > 1 and any(isinstance(m, synced) for m in head.modules())
    if len(roi_feats) or others_wait:
        return head(mask_queries, roi_feats)
    touched = sum(parameter.sum() * 0 for parameter in head.parameters())
    side = 2 * roi_feats.shape[-1]
    # Its sum, the loss, is 0 and has a graph.
    logits = roi_feats.new_zeros(0, head.mask_logits.out_channels, side, side)
    return logits + touched * logits.new_ones(0, 1, 1, 1)
