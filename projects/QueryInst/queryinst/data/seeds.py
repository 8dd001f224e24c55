"""Random numbers that depend on SEED and a place in the training, not on what was drawn before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# The first number of a place: what is drawn there.
ORDER, SUBSET, IMAGE, STEP = range(4)


def generator_at(seed: int, *place: int) -> np.random.Generator:
    """A generator of its own for each place; all numbers are >= 0."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def seed_generators(seed: int, *place: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on each of its devices."""
    torch.manual_seed(_seed_cpu_generators(seed, place))


@contextmanager
def seeded_generators(seed: int, *place: int) -> Iterator[None]:
    """Seed those of Python, NumPy and torch on the CPU; their states come back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(_seed_cpu_generators(seed, place))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_cpu_generators(seed: int, place: tuple[int, ...]) -> int:
    """Seed Python's and NumPy's; returns a seed of 63 bits for torch's."""
    words = np.random.SeedSequence(seed, spawn_key=place).generate_state(5, np.uint32).tolist()
    random.seed(words[0] << 32 | words[1])
    np.random.seed(words[2])
    return (words[3] << 32 | words[4]) >> 1
