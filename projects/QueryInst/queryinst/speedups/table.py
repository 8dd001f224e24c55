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
    # Measured by processor: time without it to time with it, with 100 and with 300 queries.
    gain_avx512: str
    gain_avx2: str

    def module(self) -> ModuleType:
        return importlib.import_module(f".{self.name}", __package__)


_CPUS = ("AVX2", "AVX512")
_INFERENCE, _TRAINING = ("inference",), ("training",)
_BOTH = _INFERENCE + _TRAINING
# In the order in which they are applied.
SPEEDUPS = (
    Speedup(
        name="channels_last",
        replaces="memory format of images and feature maps",
        tasks=_BOTH,
        where="CPU, any dtype",
        auto=_CPUS,
        gain_avx512="inference 1.73, 1.56; training 1.15, 1.07",
        gain_avx2="inference 1.50, 1.48",
    ),
    Speedup(
        name="fold_norms",
        replaces="static batch norms after convolutions",
        tasks=_BOTH,
        where="any device and dtype, not under autocast",
        auto=(*_CPUS, "CUDA"),
        gain_avx512="inference 1.08, 1.13; training 1.02, 0.97",
        gain_avx2="inference 1.11, 1.07",
    ),
    Speedup(
        name="conv2d_im2col",
        replaces="convolutions of few pixels with many weights",
        tasks=_BOTH,
        where="CPU, float32 and float64, not under autocast",
        auto=("AVX2",),
        gain_avx512="none: demo 1.00",
        gain_avx2="demo 1.10 to 1.37",
    ),
    Speedup(
        name="winograd",
        replaces="large 3x3 convolutions and their gradients",
        tasks=_BOTH,
        where="CPU, float32 and float64, not under autocast",
        auto=("AVX2",),
        gain_avx512="none: inference 0.87, 0.92; training 0.86, 0.92",
        gain_avx2="inference 1.08, 1.02; training 1.11, 1.05",
    ),
    Speedup(
        name="conv2d_weight_grad",
        replaces="weight gradients of large convolutions",
        tasks=_TRAINING,
        where="CPU, float32 and float64, not under autocast",
        auto=("AVX2",),
        gain_avx512="none: training 0.94, 0.93",
        gain_avx2="training 1.23 to 1.29 with 100 queries",
    ),
    Speedup(
        name="roi_align_bag",
        replaces="RoIAlign of all levels",
        tasks=_BOTH,
        where="CPU, float32 and float64",
        auto=_CPUS,
        gain_avx512="inference 1.09, 1.36; training 1.38, 1.61; demo 1.28",
        gain_avx2="inference 1.06, 1.30; training 1.23, 1.40; demo 1.25",
    ),
    Speedup(
        name="lazy_fpn",
        replaces="FPN, its finest output convolution and pooling from it",
        tasks=_INFERENCE,
        where="CPU, float32 and float64, not under autocast",
        auto=_CPUS,
        gain_avx512="inference 1.12, 0.98",
        gain_avx2="inference 1.20 with 100 queries",
    ),
    Speedup(
        name="sync_free_pooling",
        replaces="choice of each level's RoIs",
        tasks=_BOTH,
        where="CUDA, any dtype",
        auto=("CUDA",),
        gain_avx512="not measured on GPU",
        gain_avx2="not measured on GPU",
    ),
    Speedup(
        name="separable_paste",
        replaces="paste_masks_in_image",
        tasks=_INFERENCE,
        where="CPU, any dtype",
        auto=_CPUS,
        gain_avx512="1.01; 1.2 for 100 large masks in 12 megapixels",
        gain_avx2="inference 1.04 with 100 queries",
    ),
    Speedup(
        name="one_by_one",
        replaces="batches of several images",
        tasks=_INFERENCE,
        where="CPU, any dtype",
        auto=_CPUS,
        gain_avx512="not measured",
        gain_avx2="peak memory of 8 images 3.0 GB without, 1.9 GB with it",
    ),
    Speedup(
        name="malloc",
        replaces="glibc's allocator, in train_net.py's process",
        tasks=_TRAINING,
        where="CPU, any dtype",
        auto=_CPUS,
        gain_avx512="training 1.10, 1.27",
        gain_avx2="training 1.2, 1.3",
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
