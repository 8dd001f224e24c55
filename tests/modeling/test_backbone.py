"""What is asked of a backbone, what it is initialised with, and which parts of it learn."""

import math

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.regnet import AnyNet, ResBottleneckBlock, SimpleStem
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.modeling import QueryInst
from queryinst.modeling.backbone import build_fpn_backbone, use_running_statistics
from queryinst.testing import random_batch, tiny_cfg


def regnet_cfg() -> CfgNode:
    """A backbone that no key of Detectron2 describes, as a user registers it."""
    name = "build_tiny_regnet_fpn_for_tests"
    if name not in BACKBONE_REGISTRY:
        stages = ["s1", "s2", "s3", "s4"]

        def build(cfg, input_shape):
            bottom_up = AnyNet(
                stem_class=SimpleStem,
                stem_width=8,
                block_class=ResBottleneckBlock,
                depths=[1, 1, 1, 1],
                widths=[8, 8, 16, 16],
                group_widths=[8, 8, 8, 8],
                strides=[2, 2, 2, 2],
                bottleneck_ratios=[1.0] * 4,
                se_ratio=0.25,
                activation_class=nn.ReLU,
                out_features=stages,
            )
            return FPN(bottom_up, stages, cfg.MODEL.FPN.OUT_CHANNELS)

        build.__name__ = name
        BACKBONE_REGISTRY.register(build)
    return tiny_cfg(MODEL__BACKBONE__NAME=name)


def retinanet_cfg() -> CfgNode:
    return tiny_cfg(
        MODEL__BACKBONE__NAME="build_retinanet_resnet_fpn_backbone",
        MODEL__FPN__IN_FEATURES=["res3", "res4", "res5"],
        MODEL__ROI_HEADS__IN_FEATURES=["p3", "p4", "p5"],
    )


def r18_cfg() -> CfgNode:
    return tiny_cfg(MODEL__RESNETS__DEPTH=18, MODEL__RESNETS__RES2_OUT_CHANNELS=64)


@pytest.mark.parametrize("make_cfg", [regnet_cfg, retinanet_cfg, r18_cfg])
def test_queryinst_trains_and_predicts_with_other_backbones(make_cfg):
    torch.manual_seed(0)
    model = QueryInst(make_cfg()).train()
    with EventStorage(0):
        losses = model(random_batch((2, 1)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 8
    bottom_up_grads = [p.grad for p in model.backbone.bottom_up.parameters() if p.requires_grad]
    assert all(grad is not None for grad in bottom_up_grads)
    with torch.no_grad():
        (prediction,) = model.eval().inference(random_batch((0,)), do_postprocess=False)
    assert len(prediction) == 18


def test_build_fpn_backbone_draws_xavier_uniform():
    torch.manual_seed(0)
    backbone = build_fpn_backbone(tiny_cfg())
    convs = [*backbone.lateral_convs, *backbone.output_convs]
    assert len(convs) == 8
    for conv in convs:
        fan_in = conv.in_channels * conv.kernel_size[0] ** 2
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.9 * bound < conv.weight.abs().max().item() <= bound
        assert not conv.bias.any()


@pytest.mark.parametrize("fpn, embed", [(16, 32), (32, 16)])
def test_build_fpn_backbone_refuses_other_channels_than_the_queries(fpn, embed):
    cfg = tiny_cfg(MODEL__FPN__OUT_CHANNELS=fpn, MODEL__QUERYINST__EMBED_DIM=embed)
    message = f"p2 has {fpn} channels, .*EMBED_DIM is {embed}; set MODEL.FPN.OUT_CHANNELS"
    with pytest.raises(ValueError, match=message):
        build_fpn_backbone(cfg)


def test_queryinst_names_a_feature_that_the_backbone_lacks():
    cfg = tiny_cfg(MODEL__ROI_HEADS__IN_FEATURES=["p2", "p3", "p4", "res5"])
    with pytest.raises(ValueError, match="no feature 'res5', only .*MODEL.ROI_HEADS.IN_FEATURES"):
        QueryInst(cfg)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_build_fpn_backbone_freezes_whole_stages(freeze_at):
    bottom_up = build_fpn_backbone(tiny_cfg(MODEL__BACKBONE__FREEZE_AT=freeze_at)).bottom_up
    for i, name in enumerate(["stem", "res2", "res3", "res4", "res5"]):
        stage = getattr(bottom_up, name)
        kinds = {type(m) for m in stage.modules() if "BatchNorm" in type(m).__name__}
        frozen = i < freeze_at
        assert len(kinds) == 1 and (kinds == {FrozenBatchNorm2d}) == frozen
        assert all(parameter.requires_grad != frozen for parameter in stage.parameters())


def test_queryinst_train_keeps_running_statistics_of_bottom_up_alone():
    model = QueryInst(tiny_cfg()).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == name.startswith("mask_head."), name
    model.eval().train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert not any(module.training for module in model.eval().modules())


def test_norm_eval_false_trains_on_batch_statistics():
    model = QueryInst(tiny_cfg(MODEL__BACKBONE__NORM_EVAL=False)).train()
    assert all(module.training for module in model.modules())


def test_use_running_statistics_without_a_bottom_up():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SyncBatchNorm(4)).train()
    use_running_statistics(net)
    assert [module.training for module in net] == [True, False, False]
    assert all(parameter.requires_grad for parameter in net.parameters())
