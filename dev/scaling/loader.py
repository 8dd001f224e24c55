"""Images a second of one loader's worker, and the workers that a GPU needs."""

import math
import tempfile
from pathlib import Path

import cv2
import torch

from dev.measure_loader import CONFIGS, make_images, seconds_per_image
from queryinst.data.mapper import build_mapper
from queryinst.engine import setup_cfg

from .tables import table

NAMES = ("1x", "3x", "3x_300q")
RESIZERS = ("PIL", "OPENCV")

Rates = dict[tuple[str, str], float]


def measure_rates(num_images: int = 16, rounds: int = 3) -> Rates:
    """Images a second of one worker in training, by configuration and INPUT.RESIZE_WITH."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)  # as in a worker
    cv2.setNumThreads(1)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        dicts = make_images(Path(folder), num_images)
        for name in NAMES:
            for resizer in RESIZERS:
                cfg = setup_cfg(f"{CONFIGS}{name}.yaml", ["INPUT.RESIZE_WITH", resizer])
                rates[name, resizer] = 1 / seconds_per_image(
                    build_mapper(cfg, is_train=True), dicts, rounds
                )
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return rates


def rates_table(rates: Rates, gpu_rates: tuple[int, ...]) -> str:
    """What a worker makes ready, and the workers for one GPU by the images that it takes.

    Args:
        gpu_rates: images a second of one GPU.
    """
    headers = ["configuration", "`INPUT.RESIZE_WITH`", "images/s a worker"]
    headers += [f"workers for {gpu_rate} images/s" for gpu_rate in gpu_rates]
    rows = [
        [name, resizer, f"{rate:.0f}"] + [math.ceil(gpu_rate / rate) for gpu_rate in gpu_rates]
        for (name, resizer), rate in rates.items()
    ]
    return table(headers, rows, num_texts=2)
