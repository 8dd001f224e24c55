"""float32 as a floor: what must not run in half precision, even under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context that disables autocast on this kind of device, if it is enabled."""
    off = torch.autocast(device.type, enabled=False)  # which torch.export would record
    return off if torch.is_autocast_enabled(device.type) else nullcontext()
