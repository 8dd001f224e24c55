"""float32 as a floor: what must not run in half precision, under autocast neither."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(device: torch.device) -> torch.autocast:
    """A context without autocast on this device."""
    return torch.autocast(device.type, enabled=False)


def is_autocast(device: torch.device) -> bool:
    """Whether autocast is at work on this kind of device."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled(device.type)
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()  # torch < 2.4


def runs_plainly(device: torch.device) -> bool:
    """Whether neither autocast nor a tracer or compiler has a hand in what runs on this device."""
    return not (is_autocast(device) or torch.jit.is_tracing() or torch.compiler.is_compiling())
