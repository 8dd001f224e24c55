"""MMDetection's QueryInst on a small data set: its model, losses, optimizer and schedule.

usage: python -m dev.learning.mmdet_side RUN_JSON

Runs in the peer environment (dev/setup_peer.py), on the CPU, with projects/QueryInst in
PYTHONPATH. RUN_JSON holds a `mmdet_run.Run`; into its folder `output` go results.json and
final.pth. The model is as narrow as the demo's. Images come in the order, and with the
augmentation, in which this project's training sees them; COCO's AP is by the same evaluator.
Whatever the demo does otherwise is MMDetection's 1x recipe: 100 initial boxes of the whole image,
AdamW, clipping at 0.1, weight decay, warm-up and drops.
"""

import math
import os
import statistics
import sys
import time

import mmdet_peer  # before anything of mmdet
import numpy as np
import torch
from comparison import clip_boxes
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet_optimizer import build_optimizer
from parity_cases import Batch
from parity_inputs import Objects
from torch import Tensor, nn

from queryinst.checkpoint.files import write_atomically
from queryinst.data.mapper import build_mapper
from queryinst.data.registration import register_from_args
from queryinst.data.train_loader import build_train_loader
from queryinst.engine import setup_cfg
from queryinst.engine.coco_evaluation import TimedCOCOEvaluator
from queryinst.engine.errors import describe_error
from queryinst.engine.evaluation import write_json
from queryinst.speedups import malloc

from ..mmdet_data import as_mmdet_data
from .mmdet_recipe import build_schedulers, load_weights, model_cfg
from .mmdet_run import Run, read_run

DEMO = "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"
TRAIN, VAL = "mmdet_train", "mmdet_val"


def _paste_outside_too(masks, boxes, height, width, skip_empty=True):
    """A box outside the image gets an empty mask, as on a GPU; on the CPU MMDetection raises."""
    size = boxes.new_tensor([width, height])
    inside = bool((boxes[:, :2] < size).all() and (boxes[:, 2:] > 0).all())
    return _paste(masks, boxes, height, width, skip_empty and inside)


_paste = fcn_mask_head._do_paste_mask
fcn_mask_head._do_paste_mask = _paste_outside_too


class AsDetectron2(nn.Module):
    """Takes and gives what Detectron2's models take and give in evaluation."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: list[dict]) -> list[dict]:
        samples = self.model.test_step(data_of(inputs))
        return [{"instances": instances_of(sample)} for sample in samples]


def instances_of(sample) -> Instances:
    """Detections of an image of the output's size.

    Boxes are clipped to it, as Detectron2's models do and MMDetection does not: without, objects
    that the border cuts cost it box AP.
    """
    predictions, size = sample.pred_instances, tuple(sample.ori_shape)
    instances = Instances(size)
    instances.pred_boxes = Boxes(clip_boxes(predictions.bboxes, size))
    instances.scores, instances.pred_classes = predictions.scores, predictions.labels
    instances.pred_masks = predictions.masks
    return instances


def data_of(inputs: list[dict]) -> dict:
    """What `build_mapper`'s mappers give -> what MMDetection's data loader gives."""
    images = [x["image"].permute(1, 2, 0).numpy() for x in inputs]
    objects = [_objects(x.get("instances"), x["image"].shape[-2:]) for x in inputs]
    return as_mmdet_data(Batch(images, objects, [(x["height"], x["width"]) for x in inputs]))


def _objects(truth: Instances | None, size: torch.Size) -> Objects:
    if truth is None:  # in evaluation
        return Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, *size)))
    boxes, masks = truth.gt_boxes.tensor, truth.gt_masks.tensor
    return Objects(boxes.numpy(), truth.gt_classes.numpy(), masks.numpy())


def data_cfg(run: Run) -> CfgNode:
    """Registers the data sets; the configuration of their loaders, and the demo's widths."""
    register_from_args(
        [(TRAIN, run.train_json, run.train_images), (VAL, run.val_json, run.val_images)]
    )
    cfg = setup_cfg(DEMO, run.options).clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = run.batch, run.seed
    cfg.DATALOADER.NUM_WORKERS = 0  # nothing runs beside a step
    return cfg


class Training:
    """The model, and the seconds of each of its steps."""

    def __init__(self, run: Run):
        """Raises OSError or ValueError, one line, if the data or the weights do not fit."""
        seed_all_rng(run.seed)
        self.run, self.data_cfg = run, data_cfg(run)
        malloc.apply_to_process(self.data_cfg)  # as for the other models
        self.batches = iter(build_train_loader(self.data_cfg, build_mapper(self.data_cfg, True)))
        mapper = build_mapper(self.data_cfg, is_train=False)
        self.val_loader = build_detection_test_loader(self.data_cfg, VAL, mapper=mapper)
        for name in (TRAIN, VAL):
            if (names := MetadataCatalog.get(name).thing_classes) != run.class_names:
                raise ValueError(f"{name} has the classes {names}, not {run.class_names}")
        cfg = model_cfg(run, self.data_cfg)
        self.model = mmdet_peer.build(cfg)
        self.model.init_weights()
        if run.weights:
            load_weights(self.model, run.weights)
        self.wrapper = build_optimizer(cfg, self.model).wrapper
        self.schedulers = build_schedulers(cfg, self.wrapper, run.steps)
        self.seconds: list[float] = []
        self.model.train()

    def step(self) -> None:
        """Raises FloatingPointError if the loss is not finite."""
        data = data_of(next(self.batches))
        start = time.perf_counter()
        loss = self.model.train_step(data, self.wrapper)["loss"]
        for scheduler in self.schedulers:
            scheduler.step()
        self.seconds.append(time.perf_counter() - start)
        if not math.isfinite(loss):
            number = len(self.seconds)
            raise FloatingPointError(f"the loss of step {number} is {loss}; lower lr {self.run.lr}")

    def evaluate(self) -> dict[str, float]:
        """A point of the curve; AP in percent."""
        evaluator = TimedCOCOEvaluator(VAL, tasks=("bbox", "segm"))
        results = inference_on_dataset(AsDetectron2(self.model), self.val_loader, evaluator)
        point = {"step": len(self.seconds), "seconds": sum(self.seconds)}
        return point | {"box_ap": results["bbox"]["AP"], "mask_ap": results["segm"]["AP"]}


def train(run: Run) -> tuple[dict, dict[str, Tensor]]:
    """What results.json holds, and the weights."""
    training = Training(run)
    curve = []
    for step in range(run.steps + 1):
        if step:
            training.step()
        if step in run.eval_steps:
            curve.append(training.evaluate())
            print(" ".join(f"{key} {value:.4g}" for key, value in curve[-1].items()), flush=True)
    results = {name: getattr(run, name) for name in ("steps", "lr", "seed", "batch")}
    results |= {"curve": curve, "seconds_per_step": statistics.median(training.seconds)}
    results |= {"model": "mmdet", "threads": torch.get_num_threads()}
    return results, training.model.state_dict()


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m dev.learning.mmdet_side RUN_JSON", file=sys.stderr)
        return 2
    try:
        run = read_run(argv[0])
        results, weights = train(run)
        final = os.path.join(run.output, "final.pth")
        write_atomically(final, lambda file: torch.save(weights, file))
        write_json(os.path.join(run.output, "results.json"), results)
    except (OSError, ValueError, KeyError, FloatingPointError) as error:
        print(f"mmdet_side: error: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
