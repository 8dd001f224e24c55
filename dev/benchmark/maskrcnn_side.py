"""A further side: Detectron2's Mask R-CNN R-50-FPN."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from .common_inputs import OUTPUT_SIZE, batch_of
from .subjects import inputs_of

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
NOTE = (
    "random weights; the bias of one class makes all 1,000 proposals detections of it, of which"
    " NMS at 0.9 leaves more than the 100 best that are kept and pasted"
)


def build(run: dict) -> tuple[Callable[[], Any], Callable[[Any], str]]:
    """The step, and what turns its last result into a sentence."""
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = run["device"], ""
    cfg.SOLVER.BASE_LR = 1e-5  # random weights would not survive the real one
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.9  # random proposals overlap more than real ones
    torch.manual_seed(0)
    model = build_model(cfg)
    _tame(model)
    inputs = inputs_of(batch_of(run), OUTPUT_SIZE)
    if run["task"] == "inference":
        return _inference(model, inputs)
    return _training(cfg, model, inputs)


def _tame(model: nn.Module) -> None:
    """Without statistics the activations of a random ResNet would double with every block."""
    for name, module in model.named_modules():
        if name.endswith("conv3.norm") and isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.25)


def _inference(model: nn.Module, inputs: list[dict]):
    model.eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] += 8

    @torch.no_grad()
    def step():
        return model(inputs)

    return step, lambda last: f"detections {sum(len(x['instances']) for x in last)}; {NOTE}"


def _training(cfg: CfgNode, model: nn.Module, inputs: list[dict]):
    model.train()
    optimizer = DefaultTrainer.build_optimizer(cfg, model)

    def step() -> float:
        with EventStorage():
            loss = sum(model(inputs).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, lambda last: f"total_loss {last:.3f}; {NOTE}"
