"""This project's side: what subjects.py builds, on the common weights and inputs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from queryinst import model_zoo
from queryinst.checkpoint import convert_mmdet_state_dict
from queryinst.speedups import speed_up_process

from .common_inputs import MODELS, NUM_CLASSES, OUTPUT_SIZE, batch_of, load_weights
from .subjects import build_inference, build_training, inputs_of


def build(run: dict) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The step, and what turns its last result into plain tensors."""
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{MODELS[run['queries']]}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = run["device"], ""
    # The learning rate of both sides' configurations, without a schedule or a scale of it.
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.REFERENCE_WORLD_SIZE = 1.0, 0
    cfg.merge_from_list(run["opts"])
    inputs = inputs_of(batch_of(run), OUTPUT_SIZE)
    if run["task"] == "inference":
        subject = build_inference(cfg, inputs)
    else:
        speed_up_process(cfg)  # as train_net.py does
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
