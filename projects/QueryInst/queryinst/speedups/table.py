"""The table of speed-ups: the one place that lists them."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch

AUTO = "auto"


class Speedup(NamedTuple):
    """A row. Its module in this folder has the row's name.

    The module defines ``apply_to_model(model)`` or ``apply_to_process(cfg)``.
    """

    name: str
    replaces: str
    tasks: tuple[str, ...]  # "inference", "training"
    where: str  # device, dtype and conditions; elsewhere it falls back by itself
    auto: tuple[str, ...]  # kinds of processor, or "CUDA", that "auto" takes it on
    gain: str  # measured: time without it to time with it, and on what

    def module(self) -> ModuleType:
        return importlib.import_module(f".{self.name}", __package__)


_CPUS = ("AVX2", "AVX512")
_INFERENCE, _TRAINING = ("inference",), ("training",)
_BOTH = _INFERENCE + _TRAINING
# In the order in which they are applied.
SPEEDUPS = (
    Speedup(
        "channels_last",
        "memory format of images and feature maps",
        _BOTH,
        "CPU, any dtype",
        _CPUS,
        "",
    ),
    Speedup(
        "fold_norms",
        "static batch norms after convolutions",
        _BOTH,
        "any device and dtype, not under autocast",
        (*_CPUS, "CUDA"),
        "",
    ),
    Speedup(
        "conv2d_im2col",
        "convolutions of few pixels with many weights",
        _BOTH,
        "CPU, float32 and float64, not under autocast",
        _CPUS,
        "",
    ),
    Speedup(
        "winograd",
        "large 3x3 convolutions and their gradients",
        _BOTH,
        "CPU, float32 and float64, not under autocast",
        ("AVX2",),
        "",
    ),
    Speedup(
        "conv2d_weight_grad",
        "weight gradients of large convolutions",
        _TRAINING,
        "CPU, float32 and float64, not under autocast",
        ("AVX2",),
        "",
    ),
    Speedup(
        "roi_align_bag",
        "RoIAlign of all levels",
        _BOTH,
        "CPU, float32 and float64",
        _CPUS,
        "",
    ),
    Speedup(
        "lazy_fpn",
        "FPN, its finest output convolution and pooling from it",
        _INFERENCE,
        "CPU, float32 and float64, not under autocast",
        _CPUS,
        "",
    ),
    Speedup(
        "sync_free_pooling",
        "choice of each level's RoIs",
        _BOTH,
        "CUDA, any dtype",
        ("CUDA",),
        "not measured on GPU; a training step waits for the device once, not 28 times",
    ),
    Speedup(
        "separable_paste",
        "paste_masks_in_image",
        _INFERENCE,
        "CPU, any dtype",
        _CPUS,
        "",
    ),
    Speedup(
        "one_by_one",
        "batches of several images",
        _INFERENCE,
        "CPU, any dtype",
        _CPUS,
        "",
    ),
    Speedup(
        "malloc",
        "glibc's allocator, in train_net.py's process",
        _TRAINING,
        "CPU, any dtype",
        _CPUS,
        "",
    ),
)


def resolve(names: Sequence[str]) -> list[Speedup]:
    """Return the rows that MODEL.QUERYINST.SPEEDUPS names, in the table's order.

    Args:
        names: of rows; "auto" stands for those that were measured to gain on this processor.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    known = [row.name for row in SPEEDUPS]
    for name in names:
        if name != AUTO and name not in known:
            raise ValueError(
                f"{name!r} is no speed-up; MODEL.QUERYINST.SPEEDUPS may hold 'auto' or any of "
                + ", ".join(known)
            )
    kinds = {processor_kind(), "CUDA"}
    return [
        row
        for row in SPEEDUPS
        if row.name in names or (AUTO in names and not kinds.isdisjoint(row.auto))
    ]


def processor_kind() -> str:
    """Return "AVX512", "AVX2", or what else torch says of this processor."""
    kind = torch.backends.cpu.get_cpu_capability()
    return "AVX512" if kind.startswith("AVX512") else kind
