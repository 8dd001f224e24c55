"""The device that a model runs on."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n


def resolve_device(cfg_or_name: CfgNode | str, *, training: bool) -> str:
    """The device that the configuration (its `MODEL.DEVICE`) or the name asks for, if it is there.

    Args:
        training: a model is to be trained, which on the CPU by accident would waste days; without
            it, "cuda" where there is none becomes "cpu" with one warning a process.

    Raises:
        ValueError: not the name of a device; no such GPU; training on "cuda" without a GPU.
    """
    name = cfg_or_name if isinstance(cfg_or_name, str) else cfg_or_name.MODEL.DEVICE
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise ValueError(
            f"{str(name)[:100]!r} is no device; set MODEL.DEVICE to cuda, cuda:1 or cpu"
        ) from None
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, ImportError):
            raise ValueError(f"this torch has no device {name!r}; set MODEL.DEVICE") from None
    if device.type != "cuda":
        return name
    if not torch.cuda.is_available():
        if training:
            raise ValueError(
                f"training on {name!r}, but torch finds no GPU; "
                "add MODEL.DEVICE cpu to train on the CPU"
            )
        message = f"torch finds no GPU for MODEL.DEVICE {name!r}; using the CPU"
        log_first_n(logging.WARNING, message, name=__name__)
        return "cpu"
    if device.index is not None and device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"{name!r} does not exist, torch finds {count} GPUs; set MODEL.DEVICE")
    return name
