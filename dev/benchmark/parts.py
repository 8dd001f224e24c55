"""Seconds by part of a step: torch's profiler, told where each part begins and ends."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from queryinst.modeling import meta_arch

from .measuring import synchronize
from .subjects import Subject

OTHER = "other"
INFERENCE = ("backbone", "FPN", "RoIAlign", "box heads", "mask head", "paste")
TRAINING = (*INFERENCE[:-1], "matching", "losses", "backward", "optimizer")
_PREFIX = "part: "  # of the names that the profiler records


def measure_parts(subject: Subject, *, device: str, repeats: int) -> dict[str, float]:
    """Seconds of each part, each without the parts that run inside of it.

    Returns:
        Of the shortest of `repeats` runs, which they sum to, in the order of `INFERENCE` or
        `TRAINING`; at the end what is left, as `OTHER`.
    """
    names = INFERENCE if subject.optimizer is None else TRAINING
    runs = []
    with ExitStack() as stack:
        for owner, name, part in _places(subject):
            recorded = _recorded(getattr(owner, name), part, device)
            stack.enter_context(mock.patch.object(owner, name, recorded))
        step = _recorded(subject.run, OTHER, device)
        for _ in range(repeats):
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                step()
            seconds = dict.fromkeys((*names, OTHER), 0.0)
            runs.append(seconds | own_seconds(profiler.events()))
    return min(runs, key=lambda run: sum(run.values()))


def own_seconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """By part, without the parts inside of it. What the backward pass computes anew is its own."""
    seconds: dict[str, float] = {}
    for event in events:
        part, around = _part_of(event), _part_around(event)
        # On a GPU the backward pass has a thread of its own, where nothing is around a part.
        if part is None or (around is None) != (part == OTHER) or around == "backward":
            continue
        seconds[part] = seconds.get(part, 0.0) + event.cpu_time_total / 1e6
        if around is not None:
            seconds[around] = seconds.get(around, 0.0) - event.cpu_time_total / 1e6
    return seconds


def _part_of(event: FunctionEvent) -> str | None:
    is_part = event.name.startswith(_PREFIX)
    return event.name.removeprefix(_PREFIX) if is_part else None


def _part_around(event: FunctionEvent) -> str | None:
    """The innermost part around an event; "backward" if that is anywhere around it."""
    parts = []
    while (event := event.cpu_parent) is not None:
        parts += [part] if (part := _part_of(event)) else []
    return "backward" if "backward" in parts else next(iter(parts), None)


def _places(subject: Subject) -> Iterator[tuple[Any, str, str]]:
    """Whose attribute is which part."""
    model: Any = subject.model
    yield model.backbone, "forward", "FPN"
    if isinstance(bottom_up := getattr(model.backbone, "bottom_up", None), nn.Module):
        yield bottom_up, "forward", "backbone"
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


def _recorded(call: Callable, part: str, device: str) -> Callable:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        with record_function(_PREFIX + part):
            result = call(*args, **kwargs)
            synchronize(device)
        return result

    return recorded
