"""A training of a second in several settings, and the comparison of two checkpoints."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from queryinst.data.registration import register_from_args
from queryinst.model_zoo import get_config_file

MAX_ITER, CHECKPOINT_PERIOD = 12, 3

_CONFIG = {
    "_BASE_": get_config_file("quick_schedules/queryinst_R_50_FPN_instant_test.yaml"),
    "DATASETS": {"TRAIN": ("reliability_train",), "TEST": ()},
    "INPUT": {"MIN_SIZE_TRAIN": (48, 64, 80), "MAX_SIZE_TRAIN": 128, "RANDOM_FLIP": "horizontal"},
    "MODEL": {"QUERYINST": {"NUM_QUERIES": 4, "DROPOUT": 0.1}, "ROI_MASK_HEAD": {"NUM_CONV": 1}},
    "SOLVER": {
        "IMS_PER_BATCH": 4,
        "MAX_ITER": MAX_ITER,
        "STEPS": (8,),
        "WARMUP_ITERS": 4,
        "BASE_LR": 0.001,
        "CHECKPOINT_PERIOD": CHECKPOINT_PERIOD,
    },
    "SEED": 1,
}
# Options of each setting beside the above, which has grouping, multi-scale, flips and dropout.
SETTINGS = {
    "plain": (),
    "accumulation": ("SOLVER.ACCUMULATE_STEPS", 2),
    "bf16": ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bf16"),
    "activation checkpointing": (
        "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING",
        ("backbone", "box_heads", "mask_heads"),
    ),
    "crops": (
        *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range"),
        *("INPUT.CROP.SIZE", (32, 64), "INPUT.CROP.RESIZE_BEFORE", (60, 90)),
    ),
    "learning from little": (
        *("MODEL.QUERYINST.INITIAL_GRID_SIZES", (0.3,), "MODEL.QUERYINST.DENOISING_GROUPS", 2),
        *("MODEL.QUERYINST.DENOISING_QUERIES", 3, "INPUT.COPY_PASTE", 0.7),
    ),
    "evaluation": ("DATASETS.TEST", ("reliability_val",), "TEST.EVAL_PERIOD", 4),
}
SETTINGS["all of these"] = tuple(option for setting in SETTINGS.values() for option in setting)


def make_data(folder: Path, num_images: int = 10) -> list[list[str]]:
    """Write noise with rectangles as objects, upright and lying; returns --dataset's triples."""
    triples = []
    rng = np.random.default_rng(0)
    for split, num in (("train", num_images), ("val", 2)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for image_id in range(1, num + 1):
            height, width = ((60, 90), (90, 60), (60, 80))[image_id % 3]
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            name = f"{image_id}.png"
            Image.fromarray(pixels).save(folder / split / name)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for _ in range(2):
                annotations.append(_rectangle(rng, height, width))
                annotations[-1] |= {"id": len(annotations), "image_id": image_id}
        categories = [{"id": number, "name": f"class {number}"} for number in (1, 2, 3)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / f"{split}.json"
        path.write_text(json.dumps(content))
        triples.append([f"reliability_{split}", str(path), str(folder / split)])
    return triples


def _rectangle(rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    x, y = (int(rng.integers(0, side - 30)) for side in (width, height))
    right, bottom = x + int(rng.integers(12, 30)), y + int(rng.integers(12, 30))
    return {
        "bbox": [x, y, right - x, bottom - y],
        "area": (right - x) * (bottom - y),
        "category_id": int(rng.integers(1, 4)),
        "iscrowd": 0,
        "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
    }


class TinyTraining:
    """Arguments of train_net.py for runs on one small data set."""

    def __init__(self, folder: Path):
        self._datasets = make_data(folder / "data")
        register_from_args(self._datasets)
        self._config = folder / "tiny.yaml"
        self._config.write_text(yaml.safe_dump(_CONFIG))

    def args(self, output_dir: Path, *opts: Any, resume: bool = False) -> argparse.Namespace:
        train, val = self._datasets
        return argparse.Namespace(
            config_file=str(self._config),
            dataset=[train, val] if val[0] in str(opts) else [train],
            resume=resume,
            eval_only=False,
            opts=[str(option) for option in (*opts, "OUTPUT_DIR", output_dir)],
        )


def differences(path: Path, other: Path) -> list[str]:
    """What is not equal, bit by bit, in two checkpoints: weights, optimizer, schedule and the rest.

    Their `meta` holds the configurations, which may differ in OUTPUT_DIR and workers.
    """
    first, second = (torch.load(x, weights_only=True) for x in (path, other))
    first.pop("meta"), second.pop("meta")
    return _differences(first, second, "")


def _differences(first: Any, second: Any, name: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, (list, tuple)) and type(first) is type(second):
        if len(first) != len(second):
            return [name]
        pairs = [(index, *pair) for index, pair in enumerate(zip(first, second))]
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [name]
    else:
        return [] if first == second else [name]
    return [
        x for key, one, two in pairs for x in _differences(one, two, f"{name}.{key}".strip("."))
    ]
