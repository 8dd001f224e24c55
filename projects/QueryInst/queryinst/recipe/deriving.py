"""The recipe: from the figures of the data to the keys of a training."""

import numpy as np

from ..wording import counted
from .memory import fixed_bytes, image_bytes
from .queries import derive_queries
from .sampling import derive_sampling
from .schedule import derive_schedule
from .sizes import derive_sizes
from .statistics import DataStatistics
from .structures import Derived, Machine, Start, Wishes


def derive(
    train: DataStatistics,
    val: DataStatistics,
    start: Start,
    machine: Machine,
    wishes: Wishes = Wishes(),
) -> list[Derived]:
    """All keys that the data, the model and the machine decide on, each once.

    Args:
        train, val: have an object each at least.
    """
    sizes, size_keys = derive_sizes(train, val, start, machine)
    query_keys = derive_queries(train, val, start, sizes, wishes)
    values = {x.key.rpartition(".")[2]: x.value for x in query_keys}
    extra = values["DENOISING_GROUPS"] * values["DENOISING_QUERIES"]
    usual = int(np.percentile(train.objects_per_image, 95))
    in_input = train.most_in_window(sizes.window) if sizes.window else usual
    masks = min(in_input, usual, values["NUM_QUERIES"])
    masks *= 1 + values["DENOISING_GROUPS"]
    schedule = derive_schedule(
        train,
        val,
        start,
        machine,
        wishes,
        image_bytes(start, machine, sizes, values["NUM_QUERIES"] + extra, masks),
        fixed_bytes(start, machine),
    )
    iterations = next(x.value for x in schedule if x.key == "SOLVER.MAX_ITER")
    return [
        _classes(train),
        *query_keys,
        *size_keys,
        *derive_sampling(train, machine, iterations),
        *schedule,
        Derived("SOLVER.EMA.ENABLED", True, "an average of the weights is evaluated and kept"),
        Derived("SEED", 1, "the same training again gives the same model"),
    ]


def _classes(train: DataStatistics) -> Derived:
    names = ", ".join(train.class_names[:5]) + (", ..." if len(train.class_names) > 5 else "")
    count = counted(len(train.class_names), "category", "categories")
    return Derived("MODEL.ROI_HEADS.NUM_CLASSES", len(train.class_names), f"{count}: {names}")
