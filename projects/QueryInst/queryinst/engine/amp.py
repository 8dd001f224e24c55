"""Mixed precision: what the configuration asks for, what the device supports, and the contexts."""

import functools
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# AVX512_BF16 and AMX of x86, FEAT_BF16 of Arm, as Linux spells them.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO = Path("/proc/cpuinfo")


def training_precision(cfg: CfgNode) -> str:
    """SOLVER.AMP.PRECISION if SOLVER.AMP.ENABLED is True, else "fp32"."""
    return cfg.SOLVER.AMP.PRECISION if cfg.SOLVER.AMP.ENABLED else "fp32"


def training_autocast(cfg: CfgNode) -> AbstractContextManager:
    """The context of a training step's forward pass."""
    return _autocast(training_precision(cfg), cfg.MODEL.DEVICE)


def inference_autocast(cfg: CfgNode) -> AbstractContextManager:
    """The context of a prediction, by TEST.PRECISION."""
    return _autocast(cfg.TEST.PRECISION, cfg.MODEL.DEVICE)


def _autocast(precision: str, device: str) -> AbstractContextManager:
    if precision == "fp32":
        return nullcontext()  # so that an autocast of the caller's stays in force
    return torch.autocast(torch.device(device).type, PRECISIONS[precision])


def build_grad_scaler(cfg: CfgNode):
    """A loss scaler for fp16, in which small gradients vanish; None for other precisions."""
    if training_precision(cfg) != "fp16":
        return None
    return torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type)


def check_training_precision(cfg: CfgNode) -> None:
    """Refuse what the device does not support, and warn once of what is slow on it.

    Raises:
        ValueError: SOLVER.AMP.PRECISION is fp16 on the CPU.
    """
    precision = training_precision(cfg)
    _check_device("SOLVER.AMP.PRECISION", precision, "SOLVER.AMP.ENABLED False", cfg.MODEL.DEVICE)


def check_inference_precision(cfg: CfgNode) -> None:
    """As `check_training_precision`, for TEST.PRECISION."""
    _check_device("TEST.PRECISION", cfg.TEST.PRECISION, "'fp32'", cfg.MODEL.DEVICE)


def _check_device(key: str, precision: str, off: str, device: str) -> None:
    kind = torch.device(device).type
    if precision == "fp16" and kind == "cpu":
        raise ValueError(f"fp16 needs a GPU, MODEL.DEVICE is {device!r}; set {key} 'bf16' or {off}")
    if precision != "bf16":
        return
    if kind == "cpu" and not cpu_has_bf16():
        message = (
            f"{key} is bf16, but this processor has no instructions for it (AVX512_BF16, AMX or"
            " Arm's BF16): it is several times slower than fp32"
        )
        log_first_n(logging.WARNING, message, name=__name__, key="message")
    if kind == "cuda" and not _gpu_has_bf16(device):
        message = f"{key} is bf16, which this GPU emulates: fp16 is faster"
        log_first_n(logging.WARNING, message, name=__name__, key="message")


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether this processor has instructions for bfloat16, by its flags."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # not Linux; torch looks at x86 processors by itself
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return any(not _BF16_FLAGS.isdisjoint(words.split()) for words in flags)


def _gpu_has_bf16(device: str) -> bool:
    if torch.version.hip or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device)[0] >= 8  # torch says yes to emulation, too
