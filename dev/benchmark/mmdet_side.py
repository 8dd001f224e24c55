"""MMDetection's side: test_step and train_step, as its runner calls them."""

from collections.abc import Callable
from typing import Any

import mmdet_peer  # before anything of mmdet
import torch
from comparison import clip_boxes
from mmdet_optimizer import build_optimizer
from mmengine.optim import AmpOptimWrapper
from mmengine.runner.amp import autocast
from torch import Tensor

from ..mmdet_data import as_mmdet_data
from .common_inputs import MODELS, OUTPUT_SIZE, batch_of, load_weights

_LOSSES = {"cls": "cls", "bbox": "box_l1", "iou": "box_giou", "mask": "mask"}


def build(run: dict) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The step, and what turns its last result into plain tensors."""
    cfg = mmdet_peer.load_config(MODELS[run["queries"]])
    model = mmdet_peer.build(cfg)
    model.load_state_dict(load_weights(run["weights"]), strict=True)
    model.to(run["device"])
    batch = batch_of(run)
    sizes = [OUTPUT_SIZE] * len(batch.images)
    data = as_mmdet_data(batch._replace(output_sizes=sizes))
    if run["task"] == "inference":
        return _inference(model, data, run["device"], run["amp"])
    return _training(cfg, model, data, run["amp"])


def _inference(model: torch.nn.Module, data: dict, device: str, amp: bool):
    model.eval()
    num_classes = model.roi_head.bbox_head[0].num_classes
    predict_bbox = model.roi_head.predict_bbox
    kept: list[Any] = []  # which pairs of query and class; the output itself does not tell

    def keep_indices(*args, **kwargs):
        results = predict_bbox(*args, **kwargs)
        kept[:] = [result.topk_inds for result in results]
        return results

    model.roi_head.predict_bbox = keep_indices

    @torch.no_grad()
    def step():
        with autocast(device_type=torch.device(device).type, enabled=amp):
            return model.test_step(data)

    def collect(last) -> list[dict[str, Tensor]]:
        predictions = [sample.pred_instances.to("cpu") for sample in last]
        topks = [topk.cpu() for topk in kept]
        assert all(
            (topk % num_classes).equal(instances.labels)
            for topk, instances in zip(topks, predictions)
        )
        return [
            {
                "topk": topk,
                "scores": instances.scores,
                "boxes": clip_boxes(instances.bboxes, OUTPUT_SIZE),
                "masks": instances.masks,
            }
            for topk, instances in zip(topks, predictions)
        ]

    return step, collect


def _training(cfg, model: torch.nn.Module, data: dict, amp: bool):
    model.train()
    wrapper = build_optimizer(cfg, model).wrapper
    if amp:
        wrapper = AmpOptimWrapper(
            optimizer=wrapper.optimizer, clip_grad=cfg.optim_wrapper.clip_grad
        )
    history: list[dict[str, float]] = []

    def step() -> None:
        losses = model.train_step(data, wrapper)
        stage_losses = {}
        for name, value in losses.items():
            stage, _, kind = name.removeprefix("s").partition(".loss_")
            if kind:
                stage_losses[f"loss_{_LOSSES[kind]}_stage{stage}"] = float(value)
        history.append(stage_losses)

    return step, lambda last: history
