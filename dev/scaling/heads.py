"""What 80, 365 (Objects365) and 1,203 classes (LVIS) cost in the class and mask heads.

Measured on small images, in a process of its own for each row, so that its peak is its own.
"""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch

from dev.benchmark.measuring import measure
from dev.benchmark.subjects import Size, build_subject
from queryinst.build import build_queryinst

from .memory import MEASURED, NUM_INSTANCES, Case, config_of, measure_case, row_of
from .tables import gigabytes, megabytes, table

CLASSES = {"COCO": 80, "Objects365": 365, "LVIS": 1203}
CASE, SIZE = Case(300, 2, "fp32"), (256, 320)
# The layers that have a row, or a channel, for each class.
_BY_CLASS = ("cls_logits", "mask_logits")


class Heads(NamedTuple):
    """In bytes."""

    class_weights: int  # of all stages
    mask_weights: int
    activations: int  # kept for the backward pass
    training_peak: int | None  # of the process, with everything
    inference_peak: int | None


def measure_heads(num_classes: int) -> Heads:
    model = build_queryinst(config_of(CASE, "cpu", num_classes))
    class_weights, mask_weights = (
        sum(x.nbytes for name, x in model.named_parameters() if part in name) for part in _BY_CLASS
    )
    del model
    activations = measure_case(CASE, device="cpu", size=SIZE, num_classes=num_classes).activations
    assert activations is not None
    peaks = [_in_own_process(peak_bytes, num_classes, task) for task in ("training", "inference")]
    return Heads(class_weights, mask_weights, activations, *peaks)


def _in_own_process(function, *args):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_bytes(num_classes: int, task: str) -> int | None:
    """Of this process, in a training step of two images or a prediction of them."""
    logging.disable(logging.INFO)
    subject = build_subject(
        config_of(CASE, "cpu", num_classes),
        task,
        num_images=CASE.images,
        size=SIZE,
        output_size=SIZE,
        num_instances=NUM_INSTANCES,
    )
    return measure(subject.run, device="cpu", warmup=1, repeats=1)[0].peak_bytes


def heads_table() -> str:
    rows = []
    for name, num_classes in CLASSES.items():
        heads = measure_heads(num_classes)
        rows.append(
            [
                f"{name}, {num_classes}",
                megabytes(heads.class_weights),
                megabytes(heads.mask_weights),
                megabytes(mask_logits_bytes(num_classes)),
                gigabytes(heads.activations),
                gigabytes(heads.training_peak),
                gigabytes(heads.inference_peak),
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    headers = ["classes", "class layers", "mask layers", "mask logits", "activations"]
    return table([*headers, "peak, training", "peak, inference"], rows)


def cuda_table(device: str, size: Size) -> str:
    """Memory of a rank on the GPU for each number of classes."""
    rows = []
    for name, num_classes in CLASSES.items():
        memory = measure_case(CASE, device=device, size=size, num_classes=num_classes)
        rows.append([f"{name}, {num_classes}", *row_of(memory)])
        print("  ".join(rows[-1]), flush=True)
    return table(["classes", *MEASURED], rows)


def mask_logits_bytes(num_classes: int, num_stages: int = 6, side: int = 28) -> int:
    """Of all classes for each matched query, of which the loss reads one."""
    matched = CASE.images * NUM_INSTANCES
    return num_stages * matched * num_classes * side**2 * torch.float32.itemsize
