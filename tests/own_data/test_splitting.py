import zlib

import numpy as np
import pytest
from PIL import Image

from queryinst.own_data.contents import Content, Photo
from queryinst.own_data.merging import merge_contents
from queryinst.own_data.splitting import group_equal, split_content
from queryinst.own_data.stratifying import stratify

SHARES = {"train": 0.8, "val": 0.2, "test": 0.0}


@pytest.mark.parametrize(
    "labels, expected",
    [
        (np.repeat(np.eye(50), 2, axis=0), (80, 20)),
        (np.vstack([np.repeat(np.eye(10), 2, axis=0), np.zeros((20, 10))]), (32, 8)),
        (np.array([[1], [1]] + [[0]] * 18), (16, 4)),
        (np.array([[1]] * 3 + [[0]] * 3), (5, 1)),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_stratify_fills_all_parts_though_labels_are_rare(labels, expected, seed):
    parts = stratify(labels.astype(int), np.ones(len(labels), int), (0.8, 0.2), seed)
    sizes = np.bincount(parts)
    assert tuple(sizes) == expected
    for label in labels.T.astype(bool):
        assert (parts[label] == 0).any()  # one at least is trained on
    assert labels[parts == 1].any()


def photo(folder, name, classes=(), seed=None):
    """An image of noise, of its own unless `seed` is another's, with an object of each class."""
    seed = zlib.crc32(name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    record = {"id": 1, "file_name": name, "height": 6, "width": 6}
    return Photo(str(folder / name), record, [{"category_id": x, "iscrowd": 0} for x in classes])


def names(photos):
    return [x.record["file_name"] for x in photos]


def test_equal_images_stay_on_one_side(tmp_path):
    photos = [photo(tmp_path, f"{i}.png", seed=i // 3) for i in range(30)]
    Image.open(photos[0].path).save(tmp_path / "other.bmp")  # of equal pixels, not bytes
    photos.append(Photo(str(tmp_path / "other.bmp"), {"file_name": "other.bmp"}, []))
    groups = group_equal(photos)
    assert groups == [i // 3 for i in range(30)] + [0]
    for seed in range(5):
        parts = split_content(Content([], {"all": photos}), SHARES, seed).parts
        assert list(parts) == ["train", "val"] and sum(map(len, parts.values())) == 31
        sides = [{groups[photos.index(x)] for x in part} for part in parts.values()]
        assert not sides[0] & sides[1]


def test_versions_that_roboflow_made_stay_on_one_side(tmp_path):
    photos = [photo(tmp_path, f"{i // 2}_jpg.rf.{i:08x}.png") for i in range(8)]
    photos += [photo(tmp_path, "0_jpg.png")]
    assert group_equal(photos) == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_groups_join_through_an_image_of_both(tmp_path):
    photos = [
        photo(tmp_path, "a.rf.1.png", seed=1),
        photo(tmp_path, "b.rf.1.png", seed=2),
        photo(tmp_path, "c.png", seed=3),
        photo(tmp_path, "b.rf.2.png", seed=1),
    ]
    assert group_equal(photos) == [0, 0, 1, 0]


def test_split_content_depends_on_the_seed_alone(tmp_path):
    photos = [photo(tmp_path, f"{i}.png", [i % 3]) for i in range(20)]
    content = Content(["a", "b", "c"], {"train": photos[:7], "val": photos[7:]})
    again = Content(["a", "b", "c"], {"val": photos[7:][::-1], "train": photos[:7]})
    first = [names(x) for x in split_content(content, SHARES, 3).parts.values()]
    assert first == [names(x) for x in split_content(again, SHARES, 3).parts.values()]
    others = [split_content(content, SHARES, seed).parts["val"] for seed in range(6)]
    assert len({tuple(names(x)) for x in others}) > 1


def test_split_content_says_which_image_cannot_be_read(tmp_path):
    photos = [photo(tmp_path, f"{i}.png") for i in range(3)]
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(ValueError, match="1.png"):
        split_content(Content([], {"all": photos}), SHARES, 0)


@pytest.mark.parametrize("seed", range(4))
def test_stratify_spreads_rare_labels_and_keeps_to_the_shares(seed):
    generator = np.random.default_rng(seed)
    frequencies = np.array([0.9, 0.5, 0.1, 0.05])
    labels = (generator.random((400, 4)) < frequencies).astype(int)
    parts = stratify(labels, np.ones(400, int), [0.7, 0.2, 0.1], seed)
    assert np.abs(np.bincount(parts) - [280, 80, 40]).max() <= 6
    for label in range(4):
        found = np.bincount(parts[labels[:, label] > 0], minlength=3)
        assert np.abs(found - labels[:, label].sum() * np.array([0.7, 0.2, 0.1])).max() <= 3


def test_stratify_weighs_groups_by_their_size():
    sizes = np.array([50, *[1] * 50])
    parts = stratify(sizes[:, None], sizes, [0.5, 0.5], 0)
    assert sizes[parts == 0].sum() == 50


@pytest.mark.parametrize("num", [2, 3, 4])
def test_stratify_leaves_no_part_empty(num):
    for seed in range(5):
        assert set(stratify(np.ones((num, 1), int), np.ones(num, int), [0.9, 0.1], seed)) == {0, 1}


def test_stratify_needs_a_group_for_each_part():
    with pytest.raises(ValueError, match="1 image, .* cannot be split into 2 parts"):
        stratify(np.ones((1, 1), int), np.ones(1, int), [0.9, 0.1], 0)


def test_merge_contents_unites_classes_by_name(tmp_path):
    first = Content(["cat", "dog"], {"train": [photo(tmp_path, "a.png", [0, 1])]})
    second = Content(
        ["dog", "eel"],
        {"val": [photo(tmp_path, "b.png", [0])], "train": [photo(tmp_path, "c.png", [1])]},
    )
    third = Content(["eel"], {"holidays": [photo(tmp_path, "d.png", [0])]})
    merged = merge_contents([first, second, third])
    assert merged.classes == ["cat", "dog", "eel"] and list(merged.parts) == ["train", "val"]
    found = {
        x.record["file_name"]: [merged.classes[a["category_id"]] for a in x.annotations]
        for x in merged.photos
    }
    assert found == {"a.png": ["cat", "dog"], "b.png": ["dog"], "c.png": ["eel"], "d.png": ["eel"]}
    assert second.parts["val"][0].annotations[0]["category_id"] == 0  # as it was
