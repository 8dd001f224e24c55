"""What the C library's allocator does with the memory that a training step frees."""

import ctypes
import os
import platform

from detectron2.config import CfgNode

# glibc's numbers of these settings (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
LARGE = 4 * 2**20  # bytes
HELD = 64 * 2**20  # bytes; what it keeps by itself as well, once it has met tensors of 32 MB
UNLIMITED = -1  # read as the largest unsigned number

# Whoever sets one of these knows better.
_ENVIRONMENT = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
)


def set_allocator(cfg: CfgNode) -> str:
    """Let glibc keep what a step on the CPU frees, for the next one; or not, if `cfg` recomputes.

    By itself glibc gives tensors of 32 MB and more back to the system as soon as they are freed.
    Each step then gets them anew, page by page and filled with zeros, which takes a tenth to a
    third of its time; the peak is the same. What is smaller it keeps, in between tensors that live
    on: with recomputed activations, which are there to save memory, such holes are a tenth of a
    run's memory. So without recomputation all is kept, with it tensors of `LARGE` and more go back.

    Args:
        cfg: MODEL.DEVICE and MODEL.QUERYINST.ACTIVATION_CHECKPOINTING are read.

    Returns:
        "keep", "give back", or "" if nothing was set: for other devices, other C libraries, or
        where the environment sets glibc's allocator.
    """
    if cfg.MODEL.DEVICE != "cpu" or any(name in os.environ for name in _ENVIRONMENT):
        return ""
    if platform.libc_ver()[0] != "glibc":
        return ""
    mallopt = ctypes.CDLL(None).mallopt
    if cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING:
        # The second, because setting the first stops glibc from raising the other by itself.
        settings = {_MMAP_THRESHOLD: LARGE, _TRIM_THRESHOLD: HELD}
        name = "give back"
    else:
        settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: UNLIMITED}
        name = "keep"
    return name if all(mallopt(key, value) for key, value in settings.items()) else ""
