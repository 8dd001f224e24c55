"""MMDetection's QueryInst in the peer environment (dev/setup_peer.py). Import before all of mmdet.

mmcv-lite has no compiled operators. QueryInst needs RoIAlign, for which torchvision's stands in:
equal to mmcv's on the CPU, bit by bit; and on a GPU the focal loss, for which MMDetection's own
does.
"""

import logging
import os
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torchvision.ops import roi_align


class _NoOperators(types.ModuleType):
    """Stands for mmcv's extension module: any operator may be named, none can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*args, **kwargs):
            raise RuntimeError(f"mmcv's compiled operator {name} was called")

        return fail


sys.modules["mmcv._ext"] = _NoOperators("mmcv._ext")
# mmengine's optimizer constructor looks for its loader: there is none, so mmcv is no full one.
sys.modules["mmcv._ext"].__spec__ = ModuleSpec("mmcv._ext", loader=None)

import mmcv.ops  # noqa: E402
import mmdet  # noqa: E402
import mmdet.models  # noqa: E402
import mmdet.models.losses.focal_loss as focal_loss  # noqa: E402
import mmdet.models.roi_heads.mask_heads.fcn_mask_head as fcn_mask_head  # noqa: E402
import mmdet.structures.mask.structures as mask_structures  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

# Of the zoo's configurations here and MMDetection's.
CONFIGS = {
    "queryinst_R_50_FPN_1x": "queryinst_r50_fpn_1x_coco.py",
    "queryinst_R_50_FPN_3x": "queryinst_r50_fpn_ms-480-800-3x_coco.py",
    "queryinst_R_50_FPN_3x_300q": "queryinst_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py",
    "queryinst_R_101_FPN_3x": "queryinst_r101_fpn_ms-480-800-3x_coco.py",
    "queryinst_R_101_FPN_3x_300q": "queryinst_r101_fpn_300-proposals_crop-ms-480-800-3x_coco.py",
}


def _roi_align(feats, rois, output_size, scale=1.0, sampling_ratio=0, mode="avg", aligned=True):
    assert mode == "avg"
    return roi_align(feats, rois, output_size, scale, sampling_ratio, aligned)


def _roi_align_forward(self, feats, rois):
    return roi_align(
        feats, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
    )


def _paste_in_float32(masks, boxes, height, width, skip_empty=True):
    """As under float32: its grid is of that type, which grid_sample wants of the masks as well."""
    return _paste(masks.float(), boxes.float(), height, width, skip_empty)


def _sigmoid_focal_loss(
    pred, target, weight=None, gamma=2.0, alpha=0.25, reduction="mean", avg_factor=None
):
    """MMDetection's own in torch, which it takes on the CPU."""
    one_hot = torch.nn.functional.one_hot(target, pred.shape[1] + 1)[:, :-1]
    return focal_loss.py_sigmoid_focal_loss(
        pred, one_hot, weight, gamma, alpha, reduction, avg_factor
    )


mmcv.ops.RoIAlign.forward = _roi_align_forward
focal_loss.sigmoid_focal_loss = _sigmoid_focal_loss
mask_structures.roi_align = _roi_align
_paste = fcn_mask_head._do_paste_mask
fcn_mask_head._do_paste_mask = _paste_in_float32
init_default_scope("mmdet")
logging.disable(logging.WARNING)  # mmengine names every parameter in a line of its own


def load_config(name: str) -> Config:
    """MMDetection's configuration of a zoo model, without the download of the backbone."""
    folder = os.path.join(os.path.dirname(mmdet.__file__), ".mim", "configs", "queryinst")
    cfg = Config.fromfile(os.path.join(folder, CONFIGS[name]))
    cfg.model.backbone.init_cfg = None
    return cfg


def narrow(
    cfg: Config, *, stages: int, queries: int, embed_dim: int, num_heads: int, ffn_dim: int,
    dynamic_dim: int, num_classes: int, base_channels: int,
) -> Config:  # fmt: skip
    """The same model, every width made small, in place."""
    model, roi_head = cfg.model, cfg.model.roi_head
    model.backbone.update(base_channels=base_channels, stem_channels=8)
    model.neck.in_channels = [base_channels * 4 * 2**level for level in range(4)]
    model.neck.out_channels = embed_dim
    model.rpn_head.update(num_proposals=queries, proposal_feature_channel=embed_dim)
    roi_head.update(
        num_stages=stages,
        stage_loss_weights=[1] * stages,
        proposal_feature_channel=embed_dim,
        bbox_head=roi_head.bbox_head[:stages],
        mask_head=roi_head.mask_head[:stages],
    )
    roi_head.bbox_roi_extractor.out_channels = embed_dim
    roi_head.mask_roi_extractor.out_channels = embed_dim
    dynamic = dict(in_channels=embed_dim, feat_channels=dynamic_dim, out_channels=embed_dim)
    for head in roi_head.bbox_head:
        head.update(in_channels=embed_dim, num_classes=num_classes, num_heads=num_heads)
        head.update(feedforward_channels=ffn_dim)
        head.dynamic_conv_cfg.update(dynamic)
    for head in roi_head.mask_head:
        head.update(in_channels=embed_dim, conv_out_channels=embed_dim, num_classes=num_classes)
        head.dynamic_conv_cfg.update(dynamic)
    model.train_cfg.rcnn = model.train_cfg.rcnn[:stages]
    model.test_cfg.rcnn.max_per_img = queries
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    """The model, with whatever weights its constructor gives it."""
    return MODELS.build(cfg.model)


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a checkpoint holds."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
