"""What is said of masks without drawing them holds for those drawn."""

import numpy as np
import pytest

from queryinst.data.mask_bounds import parse_mask
from queryinst.data.mask_shapes import drawn_area, measure

HEIGHT, WIDTH = 64, 96
SQUARE = [54, 6, 84, 6, 84, 26, 54, 26]
TRIANGLE = [10.5, 8.2, 40.1, 50.7, 5.3, 44.9]


def shape_of(*polygons):
    """As measured, and the pixels drawn."""
    parsed = parse_mask([list(map(float, polygon)) for polygon in polygons], HEIGHT, WIDTH)
    return measure(parsed, HEIGHT, WIDTH), drawn_area(parsed, HEIGHT, WIDTH)


def moved(polygon, by):
    return (np.asarray(polygon) + by).tolist()


def closed(polygon):
    return [*polygon, *polygon[:2]]


@pytest.mark.parametrize("polygon", [SQUARE, TRIANGLE])
@pytest.mark.parametrize(
    "times, is_empty", [(1, False), (2, True), (3, False), (4, True), (50, True)]
)
def test_an_outline_written_an_even_number_of_times_is_empty(polygon, times, is_empty):
    for written in (polygon, closed(polygon)):
        shape, pixels = shape_of(written * times)
        assert (shape.is_empty, pixels == 0) == (is_empty, is_empty)


def test_an_outline_written_almost_twice_over_is_empty():
    spike = [50, 16]
    for twice in (SQUARE + moved(SQUARE, 0.05), spike + SQUARE * 2 + SQUARE[:2]):
        shape, pixels = shape_of(twice)
        assert shape.is_empty and pixels == 0


def test_two_polygons_of_one_outline_are_their_union():
    shape, pixels = shape_of(SQUARE, SQUARE)
    assert not shape.is_empty and pixels == 600


def test_a_plain_outline_is_not_drawn():
    for polygon in (SQUARE, closed(SQUARE), TRIANGLE, closed(TRIANGLE)):
        assert not shape_of(polygon)[0].is_exact


def test_masks_of_random_outlines_are_empty_where_they_are_said_to_be():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(500):
        corners = rng.uniform((0, 0), (WIDTH, HEIGHT), (int(rng.integers(3, 9)), 2))
        corners = np.round(corners, int(rng.integers(0, 2)))
        written = np.concatenate([corners] * int(rng.integers(1, 4)))
        shape, pixels = shape_of(np.roll(written, int(rng.integers(9)), axis=0).ravel())
        assert shape.is_empty == (pixels == 0)
        assert shape.area == pixels or not shape.is_exact
        found.add(shape.is_empty)
    assert found == {True, False}
