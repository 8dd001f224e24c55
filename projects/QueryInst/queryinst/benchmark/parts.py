"""Seconds by part of a step, measured in runs of their own by wrapping what the parts call."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from ..modeling import meta_arch
from .measuring import synchronize
from .subjects import Subject

OTHER = "other"
INFERENCE = ("backbone", "FPN", "RoIAlign", "box heads", "mask head", "paste")
TRAINING = (*INFERENCE[:-1], "matching", "losses", "backward", "optimizer")


def measure_parts(subject: Subject, *, device: str, repeats: int) -> dict[str, float]:
    """Seconds of each part, each without the parts that run inside of it.

    Returns:
        Of the shortest of `repeats` runs, which they sum to, in the order of `INFERENCE` or
        `TRAINING`; at the end what is left, as `OTHER`.
    """
    names = INFERENCE if subject.optimizer is None else TRAINING
    runs = []
    timer = _Timer(device)
    with _wrapped(subject, timer):
        for _ in range(repeats):
            timer.seconds = dict.fromkeys(names, 0.0)
            with timer.in_part(OTHER):
                subject.run()
            runs.append(timer.seconds)
    return min(runs, key=lambda run: sum(run.values()))


class _Timer:
    """A stack of parts, of which only the uppermost one's clock runs."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def in_part(self, part: str) -> Iterator[None]:
        # What the backward pass computes anew counts as its own.
        if "backward" in self._stack:
            yield
            return
        self._switch()
        self._stack.append(part)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        """Book the time since the last switch."""
        synchronize(self.device)
        now = time.perf_counter()
        if self._stack:
            part = self._stack[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


def _places(subject: Subject) -> Iterator[tuple[Any, str, str]]:
    """Whose attribute is which part."""
    model: Any = subject.model
    yield model.backbone, "forward", "FPN"
    if isinstance(trunk := getattr(model.backbone, "bottom_up", None), nn.Module):
        yield trunk, "forward", "backbone"
    yield model.cascade, "forward", "box heads"
    if model.mask_head is not None:
        yield model.mask_head, "forward", "mask head"
        yield model.mask_head, "predict", "mask head"
    for module in model.modules():
        if isinstance(module, ROIPooler):
            yield module, "forward", "RoIAlign"
    yield meta_arch, "postprocess", "paste"
    yield type(model.matcher), "__call__", "matching"
    yield type(model.criterion), "__call__", "losses"
    yield torch.Tensor, "backward", "backward"
    if subject.optimizer is not None:
        yield subject.optimizer, "step", "optimizer"
        yield subject.optimizer, "zero_grad", "optimizer"


@contextmanager
def _wrapped(subject: Subject, timer: _Timer) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, part in _places(subject):
            stack.enter_context(_replaced(owner, name, _timed(getattr(owner, name), part, timer)))
        yield


def _timed(call: Callable, part: str, timer: _Timer) -> Callable:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with timer.in_part(part):
            return call(*args, **kwargs)

    return timed


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    is_own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)  # the class's shows again
