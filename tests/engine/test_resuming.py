import random

import numpy as np
import pytest
import torch

from queryinst.data.seeds import IMAGE, STEP, seed_generators, seeded_generators
from queryinst.engine.resuming import RunSeed
from queryinst.testing import tiny_cfg


def numbers():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_generators_depends_on_seed_and_place_alone():
    drawn = []
    places = [(1, STEP, 0, 0), (1, STEP, 1, 0), (1, STEP, 0, 1), (2, STEP, 0, 0), (1, IMAGE, 0, 0)]
    for place in places + places:
        seed_generators(*place)
        drawn.append(numbers())
    assert drawn[:5] == drawn[5:]
    assert all(len(set(column)) == 5 for column in zip(*drawn))


def test_seeded_generators_give_the_states_back_after_an_error_too():
    seed_generators(3)
    expected = numbers()
    seed_generators(3)
    with seeded_generators(1, IMAGE, 0, 0):
        first = numbers()
    with pytest.raises(KeyError), seeded_generators(1, IMAGE, 0, 0):
        assert numbers() == first != expected
        raise KeyError
    assert numbers() == expected


def test_run_seed_draws_one_if_it_is_negative():
    np.random.seed(0)
    seeds = [RunSeed(-1).value for _ in range(2)]
    assert min(seeds) >= 0 and seeds[0] != seeds[1] and RunSeed(5).value == 5


@pytest.mark.parametrize("frozen", [True, False])
def test_run_seed_in_cfg_keeps_the_rest(frozen):
    cfg = tiny_cfg(SEED=-1)
    if frozen:
        cfg.freeze()
    seed = RunSeed(cfg.SEED)
    result = seed.in_cfg(cfg)
    assert (result.SEED, cfg.SEED, result.is_frozen()) == (seed.value, -1, frozen)


@pytest.mark.parametrize("state", [{}, {"seed": -1}, {"seed": "1"}, {"seed": 1.5}, [1], None])
def test_run_seed_refuses_what_is_no_seed(state):
    seed = RunSeed(5)
    with pytest.raises(ValueError, match="must be an integer >= 0"):
        seed.load_state_dict(state)
    assert seed.value == 5
