"""Further rows: Detectron2's Mask R-CNN R-50-FPN, and a ResNet-50 alone."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.engine import DefaultTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from our_runs import training_inputs
from torch import nn
from torchvision.models import resnet50

from .common_inputs import OUTPUT_SIZE, batch_of

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
NOTES = {
    "maskrcnn": "random weights; the bias of one class makes all 1,000 proposals detections of it,"
    " of which NMS at 0.9 leaves more than the 100 best that are kept and pasted",
    "resnet50": "torchvision's, channels-last, batch norms folded, 800x1216",
}


def build(run: dict) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The step, and what turns its last result into plain numbers."""
    if run["side"] == "resnet50":
        return _resnet(run)
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = run["device"], ""
    cfg.SOLVER.BASE_LR = 1e-5  # random weights would not survive the real one
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.9  # random proposals overlap more than real ones
    torch.manual_seed(0)
    model = build_model(cfg)
    _tame(model)
    batch = batch_of(run)
    inputs = training_inputs(batch.images, batch.objects, torch.float32)
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
    height, width = OUTPUT_SIZE
    inputs = [{"image": x["image"], "height": height, "width": width} for x in inputs]

    @torch.no_grad()
    def step():
        return model(inputs)

    return step, lambda last: {"detections": sum(len(output["instances"]) for output in last)}


def _training(cfg, model: nn.Module, inputs: list[dict]):
    model.train()
    optimizer = DefaultTrainer.build_optimizer(cfg, model)

    def step() -> float:
        with EventStorage():
            loss = sum(model(inputs).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, lambda last: {"total_loss": last}


def _resnet(run: dict):
    resnet = nn.Sequential(*list(resnet50(weights=None).children())[:-2]).eval()
    for module in list(resnet.modules()):
        _fold(module)
    resnet.to(run["device"], memory_format=torch.channels_last)
    images = torch.randn(run["batch"] or 1, 3, 800, 1216, device=run["device"])
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def step():
        return resnet(images)

    return step, lambda last: {"shape": list(last.shape)}


def _fold(module: nn.Module) -> None:
    """Batch norms that follow a convolution, in its children, into the convolution's weights."""
    names = [name for name, _ in module.named_children()]
    for name, following in zip(names, names[1:]):
        conv, norm = getattr(module, name), getattr(module, following)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, nn.utils.fuse_conv_bn_eval(conv, norm))
            setattr(module, following, nn.Identity())
