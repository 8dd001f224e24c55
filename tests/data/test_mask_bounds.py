"""Masks that pycocotools' C code must not see are refused, and all others are what it draws."""

import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from queryinst.data.mapper import build_mapper
from queryinst.data.mask_bounds import (
    MAX_COORDINATE,
    MAX_MASK_PIXELS,
    MAX_OUTLINE,
    decode_runs,
    find_mask_problem,
    to_rle,
)
from queryinst.testing import tiny_cfg

HEIGHT, WIDTH = 8, 10
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
INF, NAN, HUGE = float("inf"), float("nan"), 10**400


def pixels_of(runs, height, width):
    """Our own decoding: runs of background and object by turns, column by column."""
    flat = [index % 2 for index, run in enumerate(runs) for _ in range(run)]
    return np.array(flat, dtype=np.uint8).reshape(width, height).T


def random_mask(rng):
    height, width = rng.integers(1, 40, 2)
    if rng.random() < 0.1:
        width = 3000  # runs of several characters
    density = rng.choice([0, 0.01, 0.5, 0.99, 1])
    return np.asfortranarray(rng.random((height, width)) < density, dtype=np.uint8)


def test_decode_runs_gives_pycocotools_masks():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = random_mask(rng)
        rle = mask_util.encode(mask)
        runs = decode_runs(rle["counts"])
        np.testing.assert_array_equal(pixels_of(runs, *mask.shape), mask)
        np.testing.assert_array_equal(decode_runs(rle["counts"].decode()), runs)
        assert find_mask_problem(rle, *mask.shape) == ""
        counts = {"size": list(mask.shape), "counts": runs.tolist()}
        np.testing.assert_array_equal(mask_util.decode(to_rle(counts, *mask.shape)), mask)


def test_decode_runs_reads_the_largest_mask():
    rle = mask_util.encode(np.zeros((1, 1), np.uint8, order="F"))
    for num in (1, 31, 32, 2**14 - 1, MAX_MASK_PIXELS):
        text = mask_util.frPyObjects({"size": [1, num], "counts": [num]}, 1, num)["counts"]
        assert decode_runs(text).tolist() == [num] and len(text) <= 6
    assert decode_runs(rle["counts"]).tolist() == [1]


@pytest.mark.parametrize(
    "counts, message",
    [
        ("", "add up to 0 pixels"),
        ("1", "add up to 1 pixels"),
        (b"1", "add up to 1 pixels"),
        ("\x00" * 9, "characters that no RLE text has"),
        ("0p", "characters that no RLE text has"),
        ("0/", "characters that no RLE text has"),
        ("é1", "characters outside of ASCII"),
        ("`2P", "end within a number"),
        ("1P", "end within a number"),  # C code would read on behind the text
        ("o" * 900, "end within a number"),
        ("oooooooooo0", "of more than 6 characters"),  # shifts by more bits than there are
        ("@", "must be from 0 to 536870911, not -16"),
        ("11@", "must be from 0 to"),
        ("1111" + "N" * 40, "must be from 0 to"),
        ([], "add up to 0 pixels"),
        ([-5, 85], "must be from 0 to 536870911, not -5"),
        ([80.0], "must be integers"),
        ([True, 79], "must be integers"),
        (["80"], "must be integers"),
        ([[80]], "must be integers"),
        ([None, 80], "must be integers"),
        ([2**32 + 80], "must be from 0 to"),
        ([2**63, 80 - 2**63], "must be at most 536870911"),
        ([HUGE], "must be at most"),
        ([79], "add up to 79 pixels"),
        ("0" * 967, "are 967 characters, too many for its image of 8 x 10 pixels"),
        ([0] * 162, "are 162 numbers, too many for its image of 8 x 10 pixels"),
        ([81], "add up to 81 pixels"),
        (80, "a list or text needed"),
        ({"a": 1}, "a list or text needed"),
    ],
)
def test_find_mask_problem_refuses_rle_that_does_not_fill_its_image(counts, message):
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    problem = find_mask_problem(rle, HEIGHT, WIDTH)
    assert message in problem and "\n" not in problem and len(problem) < 300
    with pytest.raises(ValueError, match="^the third mask has an RLE"):
        to_rle(rle, HEIGHT, WIDTH, "the third mask")


@pytest.mark.parametrize(
    "size",
    [
        [100000, 100000],
        [WIDTH, HEIGHT],
        [8.0, 10.0],
        ["8", "10"],
        [True, 80],
        [HEIGHT],
        [HEIGHT, WIDTH, 1],
        [[HEIGHT, WIDTH]],
        [-8, -10],
        [HUGE, 1],
        [0, 0],
        80,
        "8,",
        None,
        {},
    ],
)
def test_find_mask_problem_refuses_rle_of_another_size(size):
    for counts in ([80], "`2", b"`2"):
        problem = find_mask_problem({"size": size, "counts": counts}, HEIGHT, WIDTH)
        assert "'size'" in problem and "[8, 10]" in problem and len(problem) < 300


@pytest.mark.parametrize(
    "number",
    [INF, -INF, NAN, HUGE, -HUGE, 1e308, 1e18, MAX_COORDINATE + 1, -MAX_COORDINATE - 1]
    + [True, None, "1", "x", [1], [], {}, 1 + 1j, b"1"],
)
@pytest.mark.parametrize("position", [0, 3, 7])
def test_find_mask_problem_refuses_coordinates_that_are_no_pixels(number, position):
    polygon = list(SQUARE)
    polygon[position] = number
    for segmentation in ([polygon], [SQUARE, polygon], [tuple(polygon)]):
        problem = find_mask_problem(segmentation, HEIGHT, WIDTH)
        assert f"numbers from -{MAX_COORDINATE} to {MAX_COORDINATE}" in problem
        assert "\n" not in problem and len(problem) < 400


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ("1,2,3,4,5,6", "of type str"),
        (5, "of type int"),
        (None, "of type NoneType"),
        (True, "of type bool"),
        (SQUARE, "has 1 in its 'segmentation' where a polygon belongs"),
        (["abcdef"], "has 'abcdef' in its"),
        ([{"counts": "1"}], "where a polygon belongs"),
        ([[[[1, 2]]]], "must hold numbers"),
        ([np.array(["1"] * 6)], "must hold numbers"),
        ([np.array([True] * 6)], "must hold numbers"),
        ([np.full(6, np.nan)], "must hold numbers"),
        ([np.full(6, 2**60)], "must hold numbers"),
    ],
)
def test_find_mask_problem_refuses_other_kinds(segmentation, message):
    problem = find_mask_problem(segmentation, HEIGHT, WIDTH)
    assert message in problem and "\n" not in problem and len(problem) < 400


def test_find_mask_problem_limits_the_outline():
    """C code allocates what the outline of all polygons needs, which a short text can ask for."""
    edge = MAX_COORDINATE // 2
    around = [-edge, -edge, edge, -edge, edge, edge, -edge, edge]
    assert find_mask_problem([around], HEIGHT, WIDTH) == ""  # MAX_OUTLINE
    assert "8000000 pixels of outline; at most 4000000" in find_mask_problem(
        [around, around], HEIGHT, WIDTH
    )
    zigzag = [0, 0, 999, 999] * (MAX_OUTLINE // 1000)
    assert "pixels of outline" in find_mask_problem([zigzag], 1000, 1000)
    assert find_mask_problem([[5, 5] * 100_000], HEIGHT, WIDTH) == ""  # a point


def test_find_mask_problem_limits_the_image():
    polygons = [[0, 0, 9, 0, 9, 9]]
    assert find_mask_problem(polygons, 1, MAX_MASK_PIXELS) == ""
    assert "masks have at most" in find_mask_problem(polygons, 100_000, 100_000)
    assert "masks have at most" in find_mask_problem(polygons, HUGE, 1)


def test_to_rle_draws_polygons_outside_of_the_image_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for scale in (5, 50, 5000):
        polygons = [list(map(float, rng.normal(5, scale, 2 * n))) for n in (3, 4, 9)]
        expected = mask_util.merge(mask_util.frPyObjects(polygons, HEIGHT, WIDTH))
        assert to_rle(polygons, HEIGHT, WIDTH) == expected
        arrays = [np.array(polygon).reshape(-1, 2) for polygon in polygons]  # Detectron2's dicts
        assert to_rle(arrays, HEIGHT, WIDTH) == expected
        singles = [list(map(np.float64, polygon)) for polygon in polygons]
        assert to_rle(singles, HEIGHT, WIDTH) == expected


@pytest.mark.parametrize("segmentation", [[], [[]], [[1, 2, 3, 4]], [[1] * 7], [[], [1, 1]]])
def test_to_rle_ignores_polygons_of_less_than_three_points(segmentation):
    assert mask_util.area(to_rle(segmentation, HEIGHT, WIDTH)) == 0
    with_square = to_rle([*segmentation, SQUARE], HEIGHT, WIDTH)
    assert with_square == mask_util.frPyObjects([SQUARE], HEIGHT, WIDTH)[0]


def test_find_mask_problem_leaves_nothing_that_c_code_fails_on():
    """Texts with characters changed, left out or put in: what passes is decoded to the end."""
    rng, chars = random.Random(0), "".join(map(chr, range(46, 114)))
    masks = [random_mask(np.random.default_rng(seed)) for seed in range(20)]
    num_passed = 0
    for _ in range(2000):
        mask = rng.choice(masks)
        text = mask_util.encode(mask)["counts"].decode()
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(["", rng.choice(chars)]) + text[at + rng.randint(0, 1) :]
        rle = {"size": list(mask.shape), "counts": text}
        if find_mask_problem(rle, *mask.shape):
            continue
        num_passed += 1
        pixels = mask_util.decode(rle)
        assert pixels.shape == mask.shape and pixels.sum() == mask_util.area(rle)
        np.testing.assert_array_equal(pixels, pixels_of(decode_runs(text), *mask.shape))
        assert 0 <= mask_util.iou([rle], [mask_util.encode(mask)], [0]).item() <= 1
        mask_util.toBbox(mask_util.merge([rle, mask_util.encode(mask)]))
    assert 100 < num_passed < 1900


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 1, 5, 1, 1e18, 5]], "numbers from -1000000"),
        ({"size": [HEIGHT, WIDTH], "counts": "oooo"}, "end within a number"),
        ({"size": [WIDTH, HEIGHT], "counts": [80]}, "'size'"),
        (None, "of type NoneType"),
    ],
)
def test_instance_mapper_refuses_masks_that_no_check_saw(tmp_path, segmentation, message):
    """A registered torch Dataset gives them, whose annotations only reading it would tell."""
    path = tmp_path / "a.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    annotation = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    good = {**annotation, "segmentation": [SQUARE]}
    bad = {**annotation, "segmentation": segmentation}
    mapper = build_mapper(tiny_cfg(INPUT__MIN_SIZE_TRAIN=(HEIGHT,)), is_train=True)
    with pytest.raises(ValueError, match=f"^an annotation of image {path} has .*{message}"):
        mapper({"file_name": str(path), "annotations": [good, bad]})
    crowd = {**bad, "iscrowd": 1}  # is not drawn
    assert len(mapper({"file_name": str(path), "annotations": [good, crowd]})["instances"]) == 1


def test_instance_mapper_keeps_to_the_limit_of_pixels(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    for is_train in (True, False):
        mapper = build_mapper(tiny_cfg(INPUT__MAX_PIXELS=HEIGHT * WIDTH - 1), is_train)
        with pytest.raises(ValueError, match="10 x 8 = 80 pixels, INPUT.MAX_PIXELS is 79"):
            mapper({"file_name": str(path)})
