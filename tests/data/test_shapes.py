"""The scenes of the procedural data set: always the same, and what is in them."""

import hashlib
import itertools

import numpy as np
import pytest

from queryinst.data import shapes
from queryinst.data.shapes_drawing import (
    CLASSES,
    IMAGE_SIZE,
    MAX_INSTANCES,
    MIN_VISIBLE,
    draw_scene,
    rasterize,
)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene((0, 0, index)) for index in range(60)]


def test_draw_scene_gives_the_bytes_of_this_version():
    """A change here changes the data for everybody: it needs a new VERSION."""
    digest = hashlib.sha256()
    for split, index in itertools.product(range(2), range(4)):
        scene = draw_scene((0, split, index))
        digest.update(scene.image.tobytes())
        for instance in scene.instances:
            digest.update(bytes([instance.class_idx]) + instance.mask.tobytes())
    assert (shapes.VERSION, digest.hexdigest()[:16]) == (2, "0622944daa3cf698")


def test_draw_scene_gives_no_image_in_both_splits():
    digests = [
        hashlib.sha256(draw_scene((0, split, index)).image.tobytes()).digest()
        for split in range(2)
        for index in range(40)
    ]
    assert len(set(digests)) == len(digests)


def test_draw_scene_has_the_documented_statistics(scenes):
    instances = [instance for scene in scenes for instance in scene.instances]
    counts = [len(scene.instances) for scene in scenes]
    assert set(counts) == set(range(1, MAX_INSTANCES + 1))
    assert np.mean(counts) >= 3
    share = np.bincount([instance.class_idx for instance in instances]) / len(instances)
    assert len(share) == len(CLASSES) >= 3 and share.min() > 0.2
    sides = [max(instance.mask.any(0).sum(), instance.mask.any(1).sum()) for instance in instances]
    assert np.percentile(sides, 5) < 36 < 60 < np.percentile(sides, 95)


def test_draw_scene_gives_disjoint_masks(scenes):
    for scene in scenes:
        assert sum(instance.mask.astype(int) for instance in scene.instances).max() == 1


def test_draw_scene_hides_no_shape_completely(scenes):
    visible = [instance.visible_fraction for scene in scenes for instance in scene.instances]
    assert MIN_VISIBLE <= min(visible) < 0.75
    assert np.mean(np.array(visible) < 0.95) > 0.15
    assert max(visible) == 1


def test_draw_scene_keeps_colours_apart_from_background_and_classes(scenes):
    colors = {class_idx: [] for class_idx in range(len(CLASSES))}
    for scene in scenes:
        background = np.median(scene.image.reshape(-1, 3), axis=0)
        for instance in scene.instances:
            color = scene.image[instance.mask].mean(0)
            assert np.abs(color - background).max() > 25
            colors[instance.class_idx].append(color)
    means = np.array([np.mean(values, axis=0) for values in colors.values()])  # (K, 3)
    spread = np.std(np.concatenate(list(colors.values())), axis=0).min()
    assert np.ptp(means, axis=0).max() < spread  # a class's mean colour says next to nothing


def test_rasterize_takes_pixel_centres():
    mask = rasterize([[(2, 3), (6, 3), (6, 5), (2, 5)]])
    expected = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    expected[3:5, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


def test_rasterize_holes_borders_and_area():
    square = [(10, 10), (30, 10), (30, 30), (10, 30)]
    hole = [(15, 15), (25, 15), (25, 25), (15, 25)]
    assert rasterize([square, hole]).sum() == 20 * 20 - 10 * 10
    assert rasterize([[(-10, -10), (5, -10), (5, 4), (-10, 4)]]).sum() == 5 * 4
    assert not rasterize([[(-30, -30), (-10, -30), (-10, -10)]]).any()
    triangle = rasterize([[(10, 10), (90, 20), (30, 100)]])
    assert triangle.sum() == pytest.approx(0.5 * (80 * 90 - 20 * 10), rel=0.01)
