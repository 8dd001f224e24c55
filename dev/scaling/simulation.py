"""Images a second of N ranks that wait for each other, their loaders and the all-reduce.

A discrete model. In each step a rank waits for its batch, runs its forward pass (a third of the
step's time), meets the others where the number of matched queries is averaged, runs its backward
pass (two thirds), during which gradients are exchanged bucket by bucket, and meets the others again
when the last bucket has arrived. Times vary with the sizes of the images.
"""

from typing import NamedTuple

import numpy as np

from .communication import BUCKET_BYTES, LINKS, ring_seconds
from .tables import table

FORWARD = 1 / 3  # of the time of a step
PREFETCH = 2  # batches that a worker of a DataLoader keeps ready
STEPS = 1000


class Setup(NamedTuple):
    """What all ranks have in common.

    Attributes:
        step_seconds: of one rank by itself, on images of average size.
        spread: standard deviation of the logarithm of a batch's pixels.
        worker_rate: images a second of one worker.
        bandwidth: bytes a second of the ring's narrowest link.
    """

    images_per_rank: int
    step_seconds: float
    spread: float
    workers: int
    worker_rate: float
    gradient_bytes: float
    bandwidth: float


def images_per_second(ranks: int, setup: Setup, seed: int = 0) -> float:
    """Of all ranks together, over STEPS steps."""
    rng = np.random.default_rng(seed)
    all_reduce = 0.0
    if ranks > 1:
        all_reduce = ring_seconds(setup.gradient_bytes, ranks, setup.bandwidth)
    num_buckets = max(1, round(setup.gradient_bytes / BUCKET_BYTES))
    size = _sizes(rng, (STEPS, ranks), setup.spread)
    loading = setup.images_per_rank / (setup.workers * setup.worker_rate)
    loading = loading * _sizes(rng, (STEPS, ranks), setup.spread)
    room = PREFETCH * setup.workers
    ready, taken = np.zeros(ranks), np.zeros((STEPS, ranks))
    end = 0.0
    for step in range(STEPS):
        free = taken[step - room] if step >= room else np.zeros(ranks)
        ready = np.maximum(ready, free) + loading[step]
        taken[step] = np.maximum(end, ready)
        forward = np.max(taken[step] + FORWARD * setup.step_seconds * size[step])
        backward = (1 - FORWARD) * setup.step_seconds * size[step].max()
        # The first bucket is full after its share of the backward pass; the last one has nothing
        # left to hide behind.
        hidden = forward + backward / num_buckets + all_reduce
        end = max(forward + backward + all_reduce / num_buckets, hidden)
    return STEPS * ranks * setup.images_per_rank / end


def _sizes(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> np.ndarray:
    """Log-normal factors with mean 1."""
    return rng.lognormal(-(spread**2) / 2, spread, shape)


def spread_of_sizes(
    short_sides: tuple[int, ...], images_per_rank: int, max_side: int = 1333, seed: int = 0
) -> float:
    """The `spread` of padded batches, by drawing sizes as the augmentation does.

    Args:
        short_sides: INPUT.MIN_SIZE_TRAIN, one of which is drawn for each image.
    """
    rng = np.random.default_rng(seed)
    short = rng.choice(short_sides, (10_000, images_per_rank)).astype(float)
    # COCO's photographs have sides like 3 to 4 and 2 to 3, and few others.
    ratio = rng.choice([4 / 3, 3 / 2], short.shape)
    long = short * ratio
    scale = np.minimum(1, max_side / long)
    pixels = (short * scale).max(1) * (long * scale).max(1)
    return float(np.log(pixels).std())


def simulation_table(setups: list[tuple[str, Setup]], ranks: tuple[int, ...]) -> str:
    """A row for each setup: images a second, and the share of N times one rank alone."""
    rows = []
    for name, setup in setups:
        row = [name, f"{setup.spread:.2f}", setup.workers]
        bound = min(setup.images_per_rank / setup.step_seconds, setup.workers * setup.worker_rate)
        for number in ranks:
            rate = images_per_second(number, setup)
            row.append(f"{rate:.0f} ({rate / number / bound:.2f})")
        rows.append(row)
    headers = ["configuration, link", "spread", "workers", *(f"{n} GPUs" for n in ranks)]
    return table(headers, rows)


def setups(
    rates: dict[tuple[str, str], float], gradient_bytes: float, step_seconds: float
) -> list[tuple[str, Setup]]:
    """The 1x and the 3x configuration over slow and fast links, then with a slow loader."""
    images, sides = 2, {"1x": (800,), "3x": tuple(range(480, 801, 32))}
    # The link, the workers, and the share of the measured rate that each has.
    ways = (("25 Gbit/s", 4, 1.0), ("100 Gbit/s", 4, 1.0), ("400 Gbit/s", 4, 1.0))
    ways += (("400 Gbit/s", 1, 0.1),)
    result = []
    for name, short_sides in sides.items():
        spread, rate = spread_of_sizes(short_sides, images), rates[name, "PIL"]
        for link, workers, share in ways:
            bandwidth = next(value for label, value in LINKS.items() if label.startswith(link))
            worker = (workers, share * rate)
            setup = Setup(images, step_seconds, spread, *worker, gradient_bytes, bandwidth)
            slow = "" if share == 1 else f", {share:g} of a worker's rate"
            result.append((f"{name}, {link}{slow}", setup))
    return result
