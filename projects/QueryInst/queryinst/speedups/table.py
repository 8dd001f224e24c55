"""The table of speed-ups: the one place that lists them."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch

AUTO = "auto"


class Speedup(NamedTuple):
    """A row. Its module in this folder has the row's name.

    The module defines ``apply_to_model(model)``, ``apply_to_optimizer(optimizer)`` or
    ``apply_to_process(cfg)``.
    """

    name: str
    replaces: str
    where: str  # device, dtype, training or not; elsewhere it falls back by itself
    auto: tuple[str, ...]  # kinds of processor, or "CUDA", that "auto" takes it on
    gain: str  # measured: time or memory without it to that with it, and on what

    def module(self) -> ModuleType:
        return importlib.import_module(f".{self.name}", __package__)


# In the order in which they are applied.
SPEEDUPS = (
    Speedup("channels_last", "memory format of feature maps", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("fold_norms", "static batch norms", "any device", ("AVX2", "AVX512", "CUDA"), ""),
    Speedup("conv2d_im2col", "convolutions of few pixels", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("winograd", "large 3x3 convolutions", "CPU", ("AVX2",), ""),
    Speedup("conv2d_weight_grad", "weight gradients", "CPU", ("AVX2",), ""),
    Speedup("roi_align_bag", "RoIAlign", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("lazy_fpn", "FPN", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("sync_free_pooling", "pooling", "CUDA", ("CUDA",), ""),
    Speedup("split_linear", "kernel generator", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("separable_paste", "paste_masks_in_image", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("one_by_one", "batches at inference", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("fused_clip", "clip_grad_norm_", "CPU", ("AVX2", "AVX512"), ""),
    Speedup("malloc", "glibc's allocator", "CPU", ("AVX2", "AVX512"), ""),
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
