"""One training of QueryInst or of Detectron2's Mask R-CNN, with AP over seconds of steps.

Both have the same trunk and pyramid, images in the same order, the same optimizer, warm-up and
cosine, and this project's trainer, which `TimedTrainer` adds a clock to.
"""

import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from queryinst.config_files import default_cfg, merge_file, merge_opts
from queryinst.data.registration import register_from_args
from queryinst.engine import Trainer
from queryinst.model_zoo import get_config_file
from queryinst.speedups import malloc

from .runs import Run

DEMO = "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
# What makes Detectron2's configuration one of the demo's size.
_MASK_RCNN_OPTIONS = (
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.BACKBONE.NORM_EVAL", False),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 256, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64),
    # As in Detectron2's tutorial on a small data set: with 512, its default, a step takes longer.
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 128),
    *("INPUT.FORMAT", "RGB", "INPUT.MASK_FORMAT", "bitmask"),
    *("SOLVER.BACKBONE_MULTIPLIER", 1.0, "SOLVER.WEIGHT_DECAY_NORM", 0.0001),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
)


class TimedTrainer(Trainer):
    """Notes the seconds of each step, without the wait for data, and without evaluation."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.step_seconds: list[float] = []

    def run_step(self) -> None:
        start = time.perf_counter()
        super().run_step()
        waited = self.storage.histories()["data_time"].latest()
        self.step_seconds.append(time.perf_counter() - start - waited)


def build_cfg(run: Run) -> CfgNode:
    """The configuration of a run; its data sets are `learning_train` and `learning_val`."""
    cfg = default_cfg()
    if run.model == "maskrcnn":
        path = detectron2_zoo.get_config_file(MASK_RCNN)
        merge_file(cfg, path, path)
        merge_opts(cfg, list(map(str, _MASK_RCNN_OPTIONS)))
    else:
        path = get_config_file(DEMO)
        merge_file(cfg, path, path)
    opts = (
        *("MODEL.WEIGHTS", run.weights if run.model == "queryinst" else ""),
        *("MODEL.ROI_HEADS.NUM_CLASSES", len(run.data.class_names)),
        *("DATASETS.TRAIN", ("learning_train",)),
        *("DATASETS.TEST", ("learning_val",) if run.evaluations else ()),
        *("DATALOADER.NUM_WORKERS", 1, "SOLVER.IMS_PER_BATCH", run.batch, "SEED", run.seed),
        *("SOLVER.BASE_LR", run.lr, "SOLVER.MAX_ITER", run.steps),
        *("SOLVER.WARMUP_ITERS", min(200, run.steps // 5), "SOLVER.CHECKPOINT_PERIOD", run.steps),
        *("TEST.EVAL_PERIOD", -(-run.steps // max(1, run.evaluations)), "OUTPUT_DIR", run.output),
        *run.data.options,
        *run.opts,
    )
    merge_opts(cfg, list(map(str, opts)))
    cfg.freeze()
    return cfg


def digest(run: Run) -> str:
    """Of all that decides on a run but the folders that it lies in."""
    cfg = build_cfg(run)
    cfg.defrost()
    cfg.OUTPUT_DIR = cfg.MODEL.WEIGHTS = ""
    return hashlib.sha256(f"{cfg.dump()}{Path(run.weights).parent.name}".encode()).hexdigest()


def train(run: Run) -> dict[str, Any]:
    """Train and evaluate in this process.

    Returns:
        `curve` and `seconds_per_step`, the median. If the run has a label, and so belongs to the
        table of what was tried, also the final AP as METRICS: `raw`, and `nms`, with NMS at 0.7.
    """
    cfg = build_cfg(run)
    malloc.apply_to_process(cfg)  # as train_net.py does for QueryInst, and here for Mask R-CNN too
    data = run.data
    triples = [
        ["learning_train", str(data.train_json), str(data.train_images)],
        ["learning_val", str(data.val_json), str(data.val_images)],
    ]
    register_from_args(triples)
    trainer = TimedTrainer(cfg)
    trainer.resume_or_load(resume=False)
    if run.model == "maskrcnn" and run.weights:  # as Detectron2 loads: other classes start anew
        DetectionCheckpointer(trainer.model).load(run.weights)
    trainer.train()
    result = {
        "curve": _curve(Path(run.output, "metrics.json"), trainer.step_seconds),
        "seconds_per_step": statistics.median(trainer.step_seconds),
        "threads": torch.get_num_threads(),
    }
    if run.label and run.model == "queryinst" and run.evaluations:
        result |= {"raw": _test(trainer, 1.0), "nms": _test(trainer, 0.7)}
    return result


def _test(trainer: TimedTrainer, nms_threshold: float) -> dict[str, float]:
    trainer.model.nms_threshold = nms_threshold
    results = trainer.test(trainer.cfg, trainer.model)
    return {"box_ap": results["bbox"]["AP"], "mask_ap": results["segm"]["AP"]}


def _curve(metrics: Path, seconds: list[float]) -> list[dict[str, float]]:
    """The points at which AP was measured; AP in percent, seconds of the steps before."""
    points = {}
    for line in metrics.read_text().splitlines():
        entry = json.loads(line)
        if "segm/AP" in entry:
            step = min(entry["iteration"] + 1, len(seconds))  # the last is written one late
            points[step] = {
                "step": step,
                "seconds": sum(seconds[:step]),
                "box_ap": entry["bbox/AP"],
                "mask_ap": entry["segm/AP"],
            }
    return list(points.values())
