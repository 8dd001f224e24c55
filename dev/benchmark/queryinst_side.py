"""This project's side: what subjects.py builds, on the common weights and inputs."""

from collections.abc import Callable
from typing import Any

import torch
from our_runs import training_inputs
from torch import Tensor

from queryinst import model_zoo
from queryinst.checkpoint import convert_mmdet_state_dict

from .common_inputs import MODELS, NUM_CLASSES, OUTPUT_SIZE, batch_of, load_weights
from .subjects import build_inference, build_training


def build(run: dict) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The step, and what turns its last result into plain tensors."""
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{MODELS[run['queries']]}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = run["device"], ""
    # The learning rate of both sides' configurations, without a schedule or a scale of it.
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.REFERENCE_WORLD_SIZE = 1.0, 0
    cfg.merge_from_list(run["opts"])
    batch = batch_of(run)
    inputs = training_inputs(batch.images, batch.objects, torch.float32)
    if run["task"] == "inference":
        height, width = OUTPUT_SIZE
        inputs = [{"image": x["image"], "height": height, "width": width} for x in inputs]
        subject = build_inference(cfg, inputs)
    else:
        subject = build_training(cfg, inputs)
    weights = convert_mmdet_state_dict(load_weights(run["weights"]))
    subject.model.load_state_dict(weights, strict=True)
    if run["task"] == "inference":
        return subject.run, _detections
    history: list[dict[str, float]] = []
    return lambda: history.append(subject.run()), lambda last: history


def _detections(last: list[dict]) -> list[dict[str, Tensor]]:
    predictions = [output["instances"].to("cpu") for output in last]
    return [
        {
            "topk": instances.query_idx * NUM_CLASSES + instances.pred_classes,
            "scores": instances.scores,
            "boxes": instances.pred_boxes.tensor,
            "masks": instances.pred_masks,
        }
        for instances in predictions
    ]
