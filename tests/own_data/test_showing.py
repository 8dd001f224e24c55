import numpy as np
import pytest

from queryinst.own_data.contents import load_content
from queryinst.own_data.showing import Augmented, beside, choose, draw_photo
from queryinst.own_data.sources import read_data
from queryinst.report.pictures import COLOURS
from queryinst.testing import tiny_cfg

SCALE = 4  # of images of 64 x 96


@pytest.fixture
def content(write_as):
    return load_content(read_data(str(write_as("coco"))))


def is_tinted(picture, plain, index):
    """Where a picture is nearer to a colour than the plain one is."""
    colour = np.array(COLOURS[index], float)
    return np.abs(picture - colour).sum(2) < np.abs(plain - colour).sum(2) - 20


def test_draw_photo_tints_each_object(content, truth):
    photo = content.parts["val"][0]
    picture = draw_photo(photo, content.classes).astype(float)
    plain = draw_photo(photo._replace(annotations=[]), content.classes).astype(float)
    assert picture.shape == (64 * SCALE, 96 * SCALE, 3)
    for index, thing in enumerate(truth["val"]["photo 6.png"]):
        y, x = (int(np.median(side)) for side in np.nonzero(thing.mask))
        inside = np.s_[y * SCALE : y * SCALE + SCALE, x * SCALE : x * SCALE + SCALE]
        assert thing.mask[y, x] and is_tinted(picture, plain, index)[inside].mean() > 0.5
    corner = np.s_[:8, -8:]
    assert np.array_equal(picture[corner], plain[corner])


def test_augmented_draws_what_the_mapper_makes(content):
    photos = content.parts["train"]
    cfg = tiny_cfg(INPUT__MIN_SIZE_TRAIN=(64,), INPUT__RANDOM_FLIP="none")  # which changes nothing
    picture = Augmented(photos, content.classes, cfg, 0).draw(photos[0])
    assert np.array_equal(picture, draw_photo(photos[0], content.classes))
    cfg = tiny_cfg(INPUT__MIN_SIZE_TRAIN=(32,))
    picture = Augmented(photos, content.classes, cfg, 0).draw(photos[0])
    assert picture.shape == (32 * SCALE, 48 * SCALE, 3)
    cfg = tiny_cfg(INPUT__MIN_SIZE_TRAIN=(32, 64), INPUT__COPY_PASTE=1.0)
    pictures = [Augmented(photos, content.classes, cfg, seed).draw(photos[0]) for seed in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_choose_depends_on_the_seed(content):
    photos = content.parts["train"]
    assert choose(photos, 99, 0) == photos
    chosen = choose(photos, 3, 0)
    assert chosen == choose(photos, 3, 0) and len(chosen) == 3
    assert [photos.index(x) for x in chosen] == sorted(photos.index(x) for x in chosen)
    assert any(choose(photos, 3, seed) != chosen for seed in range(1, 5))


def test_beside_fills_up_with_white():
    row = beside([np.zeros((2, 3, 3), np.uint8), np.ones((4, 1, 3), np.uint8)])
    assert row.shape == (4, 12, 3)
    assert (row[2:, :11] == 255).all() and (row[:, 3:11] == 255).all()
    assert (row[:2, :3] == 0).all() and (row[:, 11] == 1).all()
