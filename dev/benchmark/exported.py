"""Time of the ways to predict on this machine: PyTorch, and files that `queryinst export` writes.

usage: python -W ignore -m dev.benchmark.exported [--queries 100 300] [--repeats 5]

All predict the same image of 800x1216 pixels in turn, from its pixels to boxes and mask scores of
the 100 best detections, with random weights. OpenVINO is left out where it is not installed.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image

import queryinst
from queryinst import model_zoo, optimize_for_inference
from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.environment import describe_hardware
from queryinst.export import UnverifiedError, export
from queryinst.testing import spread_queries

from .common_inputs import MODELS
from .measuring import LoadMeter, quietness

SIZE = (800, 1216)
EAGER = "PyTorch, `queryinst.load`"


def write_checkpoint(num_queries: int, folder: Path) -> str:
    """A checkpoint of the published model's configuration with random weights; its path."""
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{MODELS[num_queries]}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(0)
    model = build_model(cfg)
    spread_queries(model)
    QueryInstCheckpointer(model, str(folder), meta=build_meta(cfg, None)).save("random")
    return str(folder / "random.pth")


def build_subjects(
    checkpoint: str, image: np.ndarray, folder: Path
) -> dict[str, Callable[[np.ndarray], Any]]:
    """What is timed: names, and functions of an image (H, W, 3) uint8, RGB, such as `image`."""
    Image.fromarray(image).save(folder / "image.png")
    optimized = queryinst.load(checkpoint, device="cpu")
    predictor = optimized.backend.predictor  # type: ignore[attr-defined]
    predictor.model = optimize_for_inference(predictor.model)
    subjects: dict[str, Callable[[np.ndarray], Any]] = {
        EAGER: queryinst.load(checkpoint, device="cpu"),
        "the same with `optimize_for_inference`": optimized,
    }
    files = {"ONNX Runtime": "model.onnx"}
    if importlib.util.find_spec("openvino"):
        files["OpenVINO"] = "model.xml"
    for name, file_name in files.items():
        path = folder / file_name
        try:
            export(checkpoint, path, check=[folder / "image.png"])
        except UnverifiedError as error:  # random weights magnify rounding
            print(f"{name}: {error}", file=sys.stderr)
            for unverified in folder.glob("*.unverified"):  # OpenVINO has two files
                unverified.rename(unverified.with_suffix(""))
        subjects[name] = queryinst.load(path)
    return subjects


def measure(num_queries: int, repeats: int) -> None:
    """Print the rows of one number of queries."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        subjects = build_subjects(write_checkpoint(num_queries, Path(folder)), image, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for subject in subjects.values():
            subject(image)
        meter = LoadMeter()
        for _ in range(repeats):
            for name, subject in subjects.items():
                start = time.perf_counter()
                subject(image)
                seconds[name].append(time.perf_counter() - start)
        others_share = meter.read()[1]
    for name, measured in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(seconds[EAGER], measured))
        print(f"| {num_queries} | {name} | {statistics.median(measured):.2f} s | {ratio:.2f} |")
    print(f"{num_queries} queries: {quietness(others_share)}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    args = parser.parse_args()
    print(f"{describe_hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| queries | what predicts | an image | to PyTorch |\n| ---: | --- | ---: | ---: |")
    for num_queries in args.queries:
        measure(num_queries, args.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
