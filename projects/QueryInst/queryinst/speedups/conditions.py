"""When a speed-up may replace what PyTorch or Detectron2 does."""

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether operations are recorded: by tracing, export or a compiler."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch >= 2.7
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or (is_exporting is not None and is_exporting())
    )


def is_plain(device: torch.device) -> bool:
    """Whether neither autocast nor tracing, export or a compiler takes part in what runs."""
    return not (torch.is_autocast_enabled(device.type) or is_traced())


def is_cpu_float(*tensors: Tensor) -> bool:
    """Whether all tensors are float32, or all float64, on the CPU."""
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(
        x.device.type == "cpu" and x.dtype == dtype for x in tensors
    )


def is_channels_last(x: Tensor) -> bool:
    """Whether channels lie innermost in the memory of (N, C, H, W)."""
    return x.is_contiguous(memory_format=torch.channels_last)
