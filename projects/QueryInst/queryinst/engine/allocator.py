"""The C library's allocator, which holds on to memory that training with recomputation gave up."""

import ctypes
import os
import platform

from detectron2.config import CfgNode

# glibc's numbers of these settings (malloc.h) and what they are set to, in bytes.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
LARGE = 4 * 2**20
HELD = 64 * 2**20  # what it keeps by itself as well, once it has met tensors of 32 MB


def give_back_large_blocks(cfg: CfgNode) -> bool:
    """Let this process free tensors of `LARGE` bytes and more for good, if `cfg` recomputes.

    By itself glibc keeps what is smaller than 32 MB for later, in between tensors that live on:
    with recomputed activations a tenth of the memory of a run. Fresh memory costs some time, so
    that runs without recomputation are left alone.

    Args:
        cfg: MODEL.DEVICE and MODEL.QUERYINST.CHECKPOINT_* are read.

    Returns:
        Whether it was set: not for other devices, other C libraries, or where the environment sets
        the same by MALLOC_MMAP_THRESHOLD_.
    """
    own = cfg.MODEL.QUERYINST
    recomputes = own.CHECKPOINT_BACKBONE or own.CHECKPOINT_BOX_HEADS or own.CHECKPOINT_MASK_HEADS
    if not recomputes or cfg.MODEL.DEVICE != "cpu" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # The second, because setting the first stops glibc from raising the other by itself.
    return bool(mallopt(_MMAP_THRESHOLD, LARGE) and mallopt(_TRIM_THRESHOLD, HELD))
