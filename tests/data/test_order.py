import itertools
from collections import Counter

import numpy as np
import pytest
from detectron2.data.common import AspectRatioGroupedDataset

from queryinst.data.order import ImageOrder, Place

START = Place(0, 0)
GROUPS = [0, 1, 1, 0, 1, 1, 1]  # of seven images


def draws_of(batches):
    return [draw for shares, _ in batches for share in shares for draw in share]


def first(order, num, place=START, images=2, world_size=1, seed=3):
    return list(itertools.islice(order.batches(seed, place, images, world_size), num))


def test_epoch_is_a_permutation_of_its_own_for_each_seed_and_epoch():
    order = ImageOrder([0] * 50)
    epochs = [order.epoch(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert ImageOrder([0] * 50).epoch(1, 0).tolist() == epochs[2]


@pytest.mark.parametrize("images, world_size", [(1, 1), (3, 1), (2, 2), (2, 3)])
def test_batches_go_on_from_any_place(images, world_size):
    order = ImageOrder(GROUPS)
    batches = first(order, 12, images=images, world_size=world_size)
    assert any(place.held for _, place in batches) == (images > 1)
    for done, (_, place) in enumerate(batches, start=1):
        rest = first(order, 12 - done, place, images, world_size)
        assert rest == batches[done:]


@pytest.mark.parametrize("images, world_size", [(2, 1), (3, 2)])
def test_batches_stay_within_a_group_and_leave_out_no_image(images, world_size):
    order = ImageOrder(GROUPS)
    batches = first(order, 9, images=images, world_size=world_size)
    for shares, _ in batches:
        assert len(shares) == world_size
        for share in shares:
            assert len(share) == images and len({GROUPS[draw.image] for draw in share}) == 1
    place = batches[-1][1]
    taken = {draw[:2] for draw in draws_of(batches)} | set(place.held)
    assert len(taken) == 9 * images * world_size + len(place.held)
    stream = itertools.takewhile(lambda draw: draw[:2] != place[:2], order.stream(3))
    assert taken == {draw[:2] for draw in stream}


def test_batches_of_one_process_are_those_of_detectron2():
    order = ImageOrder(GROUPS)
    sizes = [{"width": 2 - group, "height": 1 + group} for group in GROUPS]
    images = ({**sizes[draw.image], "image": draw.image} for draw in order.stream(3))
    expected = itertools.islice(AspectRatioGroupedDataset(images, 3), 15)
    ours = [[draw.image for draw in shares[0]] for shares, _ in first(order, 15, images=3)]
    assert ours == [[x["image"] for x in batch] for batch in expected]


@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_of_several_processes_are_one_process_s_part_by_part(world_size):
    order = ImageOrder([0] * 11)
    together = first(order, 5, images=8 // world_size, world_size=world_size)
    for (shares, place), ([batch], expected) in zip(together, first(order, 5, images=8)):
        for start in (0, 1):  # of two parts
            size = 4 // world_size
            part = [draw for share in shares for draw in share[start * size :][:size]]
            assert sorted(part) == sorted(batch[start * 4 :][:4])
        assert place == expected


@pytest.mark.parametrize("after", [(4, 1), (1, 1), (1, 3), (3, 2)])
def test_batches_of_another_size_take_each_image_once(after):
    order = ImageOrder(GROUPS)
    before = first(order, 5, images=3, world_size=2)
    rest = first(order, 9, before[-1][1], *after)
    again = first(order, 3, rest[3][1], 2, 1)  # and another change, with images held back
    positions = [draw[:2] for draw in draws_of(before + rest[:4] + again)]
    assert len(positions) == len(set(positions))
    held = again[-1][1].held
    end = max([*positions, *held])
    stream = itertools.takewhile(lambda draw: draw[:2] <= end, order.stream(3))
    assert {draw[:2] for draw in stream} == {*positions, *held}


def test_repeat_factors_round_in_each_epoch_anew():
    order = ImageOrder([0] * 3, repeat_factors=np.array([1.0, 2.5, 0.25]))
    counts = [Counter(order.epoch(0, epoch).tolist()) for epoch in range(400)]
    assert {count[0] for count in counts} == {1}
    assert {count[1] for count in counts} == {2, 3} and {count[2] for count in counts} == {0, 1}
    assert np.mean([count[1] for count in counts]) == pytest.approx(2.5, abs=0.1)
    assert np.mean([count[2] for count in counts]) == pytest.approx(0.25, abs=0.1)


def test_subset_ratio_draws_one_subset_for_all_epochs():
    order = ImageOrder([0] * 20, subset_ratio=0.25)
    epochs = [order.epoch(0, epoch).tolist() for epoch in range(3)]
    assert len({frozenset(epoch) for epoch in epochs}) == 1 and len(set(epochs[0])) == 5
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(order.epoch(1, 0).tolist()) != set(epochs[0])


@pytest.mark.parametrize("factors", [None, np.array([1.0, 0.5, 2.25])])
@pytest.mark.parametrize("num", [0, 1, 7, 20])
def test_place_after_counts_images(factors, num):
    order = ImageOrder([0] * 3, repeat_factors=factors)
    draw = next(itertools.islice(order.stream(3), num, None))
    assert order.place_after(3, num) == Place(*draw[:2])


@pytest.mark.parametrize(
    "arguments, key",
    [
        ({"subset_ratio": 0.1}, "RANDOM_SUBSET_RATIO"),
        ({"subset_ratio": 1.5}, "RANDOM_SUBSET_RATIO"),
        ({"repeat_factors": np.zeros(4)}, "REPEAT_FACTOR"),
        ({"repeat_factors": np.array([1.0, 1, 1, -1])}, "REPEAT_FACTOR"),
        ({"repeat_factors": np.array([1.0, 1, 1, np.nan])}, "REPEAT_FACTOR"),
    ],
)
def test_image_order_refuses_an_order_without_images(arguments, key):
    with pytest.raises(ValueError, match=key):
        ImageOrder([0] * 4, **arguments)
