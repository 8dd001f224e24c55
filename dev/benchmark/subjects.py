"""The step that is measured: a model's inference, or an iteration of its Trainer."""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from our_runs import training_inputs
from parity_cases import Batch, make_batch

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.engine import Trainer
from queryinst.engine.amp import inference_autocast

from .common_inputs import IMAGE_SEED

Size = tuple[int, int]  # height, width in pixels


@dataclass
class Subject:
    """A step that can be run again and again.

    Attributes:
        run: one step; returns detections, or the losses by name.
    """

    model: torch.nn.Module
    run: Callable[[], Any]


class BatchTrainer(Trainer):
    """Trains on one batch, again and again; without hooks, so nothing is written or evaluated."""

    def __init__(self, cfg: CfgNode, batch: list[dict]):
        self._batch = batch
        super().__init__(cfg)
        self.iter = 0
        self.losses: dict[str, float] = {}
        if cfg.MODEL.WEIGHTS:
            self.checkpointer.load(cfg.MODEL.WEIGHTS)
        self.model.train()

    def build_train_loader(self, cfg: CfgNode):  # type: ignore[override]
        return itertools.repeat(self._batch)

    def build_hooks(self):
        return []

    def run_step(self) -> None:
        with EventStorage(self.iter) as storage:
            super().run_step()
            latest = {name: value for name, (value, _) in storage.latest().items()}
        self.losses = {name: value for name, value in latest.items() if name.startswith("loss_")}
        self.iter += 1


def inputs_of(batch: Batch, output_size: Size) -> list[dict]:
    """What a data loader gives; masks are to be pasted into pictures of `output_size`."""
    height, width = output_size
    inputs = training_inputs(batch.images, batch.objects, torch.float32)
    return [{**each, "height": height, "width": width} for each in inputs]


def build_inference(cfg: CfgNode, batch: list[dict]) -> Subject:
    """Images to detections with pasted masks, as evaluation does it."""
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        QueryInstCheckpointer(model).load(cfg.MODEL.WEIGHTS)

    @torch.no_grad()
    def run() -> list[dict]:
        with inference_autocast(cfg):
            return model(batch)

    return Subject(model, run)


def build_training(cfg: CfgNode, batch: list[dict]) -> Subject:
    """Forward, backward, clipping and the optimizer's step, as train_net.py does them."""
    cfg = cfg.clone()
    cfg.defrost()
    with tempfile.TemporaryDirectory() as folder:  # nothing is written, but some look for it
        cfg.OUTPUT_DIR = folder
        trainer = BatchTrainer(cfg, batch)

    def run() -> dict[str, float]:
        trainer.run_step()
        return trainer.losses

    return Subject(trainer.model, run)


def build_subject(
    cfg: CfgNode,
    task: str,
    *,
    num_images: int,
    size: Size,
    output_size: Size,
    num_instances: int,
) -> Subject:
    """`build_inference` or `build_training` on random inputs.

    Without MODEL.WEIGHTS the initial ones, but for query boxes of all sizes and places: initially
    all are the whole image, which pools from the coarsest level alone.
    """
    torch.manual_seed(0)
    counts, num_classes = [num_instances] * num_images, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    batch = make_batch(IMAGE_SEED, [size] * num_images, counts, num_classes)
    build = build_inference if task == "inference" else build_training
    subject = build(cfg, inputs_of(batch, output_size))
    if not cfg.MODEL.WEIGHTS:
        _scatter_query_boxes(subject.model)
    return subject


@torch.no_grad()
def _scatter_query_boxes(model: Any) -> None:
    boxes = model.initial_queries.boxes_cxcywh_norm
    generator = torch.Generator().manual_seed(0)
    centers = 0.15 + 0.7 * torch.rand(len(boxes), 2, generator=generator)
    sides = 0.1 * 10 ** torch.rand(len(boxes), 1, generator=generator)  # a tenth to all of it
    ratios = torch.exp(0.8 * torch.rand(len(boxes), 1, generator=generator) - 0.4)
    boxes.copy_(torch.cat([centers, sides * ratios, sides / ratios], dim=1))
