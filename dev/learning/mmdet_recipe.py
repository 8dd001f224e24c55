"""MMDetection's QueryInst as narrow as the demo's, with its own optimizer and schedule."""

import mmdet_peer  # before anything of mmdet
from detectron2.config import CfgNode
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from queryinst.checkpoint.files import read_checkpoint

from .mmdet_run import Run, scale_schedule

MODEL = "queryinst_R_50_FPN_1x"


def model_cfg(run: Run, demo: CfgNode) -> Config:
    """MMDetection's configuration, with the demo's trunk and widths and the run's rate."""
    queryinst, mask_head = demo.MODEL.QUERYINST, demo.MODEL.ROI_MASK_HEAD
    width = demo.MODEL.RESNETS.RES2_OUT_CHANNELS
    assert queryinst.EMBED_DIM == demo.MODEL.FPN.OUT_CHANNELS == mask_head.CONV_DIM
    cfg = mmdet_peer.narrow(
        mmdet_peer.load_config(MODEL),
        stages=queryinst.NUM_STAGES,
        queries=run.num_queries,
        embed_dim=queryinst.EMBED_DIM,
        num_heads=queryinst.NUM_HEADS,
        ffn_dim=queryinst.FFN_DIM,
        dynamic_dim=queryinst.DYNAMIC_DIM,
        num_classes=len(run.class_names),
        base_channels=width,
    )
    cfg.model.backbone.update(depth=demo.MODEL.RESNETS.DEPTH, stem_channels=width)
    cfg.model.backbone.update(frozen_stages=-1, norm_eval=False)
    cfg.model.neck.in_channels = [width * 2**level for level in range(4)]  # of basic blocks
    for head in cfg.model.roi_head.mask_head:
        head.num_convs = mask_head.NUM_CONV
    cfg.optim_wrapper.optimizer.lr = run.lr
    cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult = run.backbone_multiplier
    return cfg


def build_schedulers(cfg: Config, wrapper: OptimWrapper, steps: int) -> list:
    """MMDetection's warm-up and drops, by steps. Fewer than 20 steps have no warm-up."""
    schedule = scale_schedule(steps)
    warmup, drops = cfg.param_scheduler
    warmup.end = schedule.warmup
    drops.update(by_epoch=False, end=steps, milestones=list(schedule.drops))
    settings = [warmup, drops] if schedule.warmup > 1 else [drops]
    return [PARAM_SCHEDULERS.build(x, default_args=dict(optimizer=wrapper)) for x in settings]


def load_weights(model: nn.Module, path: str) -> None:
    """Start from a former run's weights; those of other shapes stay random, which a line says.

    Raises:
        OSError, ValueError: the file cannot be read, or holds other names.
    """
    weights, own = read_checkpoint(path, path), model.state_dict()
    if wrong := weights.keys() ^ own.keys():
        raise ValueError(f"{path} is of another model: {len(wrong)} names, first {min(wrong)!r}")
    skipped = [name for name, value in own.items() if weights[name].shape != value.shape]
    model.load_state_dict(weights | {name: own[name] for name in skipped})
    left = ", ".join(skipped) or "none"
    print(f"{path}: loaded {len(own) - len(skipped)} tensors; skipped, of other shapes: {left}")
