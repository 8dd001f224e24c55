"""A batch in parts, whose gradients add up to those of the whole."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..structures import WholeBatch

Batch = list[dict[str, Any]]


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Consecutive parts that differ by one image at most; fewer if there are fewer images."""
    num_parts = min(num_parts, len(batch))
    limits = [len(batch) * part // num_parts for part in range(num_parts + 1)]
    return [batch[start:end] for start, end in zip(limits, limits[1:])]


def describe_batch(batch: Batch) -> WholeBatch:
    """What each part must know of its batch."""
    sizes = [x["image"].shape[-2:] for x in batch]
    return WholeBatch(
        num_instances=tuple(len(x["instances"]) for x in batch),
        size=(max(height for height, _ in sizes), max(width for _, width in sizes)),
    )


def without_sync(model: nn.Module) -> AbstractContextManager:
    """The context of all parts but the last: processes exchange gradients once."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
