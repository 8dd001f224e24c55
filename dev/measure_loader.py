"""How many images a second one data loading worker makes ready for training and evaluation.

Images and instances are made on the spot, of COCO's usual size: 480x640 JPEGs with seven polygons
of some 25 corners each.

    python dev/measure_loader.py [--images 40] [--rounds 5]
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from queryinst.data.mapper import build_mapper
from queryinst.engine import setup_cfg

HEIGHT, WIDTH, NUM_INSTANCES, NUM_CORNERS = 480, 640, 7, 25
CONFIGS = "COCO-InstanceSegmentation/queryinst_R_50_FPN_"


def make_images(folder: Path, num: int) -> list[dict]:
    """JPEGs of smooth colours and some noise, about 60 to 100 kB each, as Detectron2's dicts."""
    rng = np.random.default_rng(0)
    dicts = []
    for index in range(num):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.BICUBIC))
        pixels = smooth + rng.normal(0, 6, smooth.shape)
        path = folder / f"{index}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        annotations = [make_instance(rng) for _ in range(NUM_INSTANCES)]
        dicts.append({"file_name": str(path), "image_id": index, "height": HEIGHT, "width": WIDTH})
        dicts[-1]["annotations"] = annotations
    return dicts


def make_instance(rng: np.random.Generator) -> dict:
    """A star-shaped polygon somewhere in the image."""
    center, radius = rng.uniform((100, 100), (WIDTH - 100, HEIGHT - 100)), rng.uniform(15, 99)
    angles = np.linspace(0, 2 * np.pi, NUM_CORNERS, endpoint=False)
    radii = radius * rng.uniform(0.6, 1, NUM_CORNERS)
    corners = center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    low, high = corners.min(0), corners.max(0)
    return {
        "bbox": [*low, *high],
        "bbox_mode": 0,
        "category_id": int(rng.integers(80)),
        "iscrowd": 0,
        "segmentation": [corners.flatten().tolist()],
    }


def seconds_per_image(mapper, dicts: list[dict], rounds: int) -> float:
    """CPU time, the least of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for dataset_dict in dicts:
            mapper(dataset_dict)
        times.append((time.process_time() - start) / len(dicts))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [("1x", True), ("3x", True), ("3x_300q", True), ("1x", False)]
    with tempfile.TemporaryDirectory() as folder:
        dicts = make_images(Path(folder), args.images)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(dicts)
        print(f"{len(dicts)} JPEGs of {size / 1e3:.0f} kB, {WIDTH}x{HEIGHT}")
        for resize_with in ("PIL", "OPENCV"):
            for name, is_train in rows:
                cfg = setup_cfg(f"{CONFIGS}{name}.yaml", ["INPUT.RESIZE_WITH", resize_with])
                seconds = seconds_per_image(build_mapper(cfg, is_train), dicts, args.rounds)
                what = "training" if is_train else "evaluation"
                text = f"{1e3 * seconds:.1f} ms an image, {1 / seconds:.1f} images a second"
                print(f"{name:8} {what:10} {resize_with:6} {text}")


if __name__ == "__main__":
    main()
