"""The AP of what `queryinst.load` gives, whatever runs it, by the evaluators of a run."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from queryinst_runtime.results import Result

from ..config_files import default_cfg
from .model import Model


class EvaluatedModel(nn.Module):
    """A Model with Detectron2's contract.

    Attributes:
        thing_classes: the names of its classes; empty if they are not known.
    """

    def __init__(self, model: Model, **options: Any):
        """
        Args:
            options: of `Model.predict`.
        """
        super().__init__()
        self.model, self.options = model, options
        self.thing_classes = model.class_names

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """As `QueryInst.forward` in evaluation.

        Args:
            batched_inputs: "image" (3, H, W) uint8, RGB, as large as the file's: `evaluation_cfg`.
        """
        results = self.model.predict([x["image"] for x in batched_inputs], **self.options)
        return [{"instances": to_instances(result)} for result in results]


def to_instances(result: Result) -> Instances:
    """A Result as Detectron2's Instances, on the CPU."""
    instances = Instances(result.image_size)
    instances.pred_boxes = Boxes(torch.from_numpy(result.boxes))
    instances.scores = torch.from_numpy(result.scores)
    instances.pred_classes = torch.from_numpy(result.classes)
    instances.query_idx = torch.from_numpy(result.query_idx)
    if result.has_masks:
        instances.pred_masks = torch.from_numpy(result.masks)
    return instances


def evaluation_cfg(
    path: str, dataset_name: str, output_dir: str, *, num_classes: int, has_masks: bool, limit: int
) -> CfgNode:
    """A run's configuration under which `EvaluatedModel` gets images as they are; frozen.

    Args:
        path: the model's, for the log.
        limit: objects of an image.
    """
    cfg = default_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.WEIGHTS", path, "MODEL.DEVICE", "cpu", "MODEL.MASK_ON", has_masks),
            *("MODEL.ROI_HEADS.NUM_CLASSES", num_classes, "INPUT.FORMAT", "RGB"),
            *("INPUT.MIN_SIZE_TEST", 0, "TEST.DETECTIONS_PER_IMAGE", limit),
            *("DATASETS.TRAIN", (), "DATASETS.TEST", (dataset_name,), "OUTPUT_DIR", output_dir),
            *("DATALOADER.NUM_WORKERS", 0),
        ]
    )
    cfg.freeze()
    return cfg
