"""The data sets that learning is compared on: subsets, names, and cells from labels to COCO."""

import io
import json
import tarfile

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from dev.learning import cells, data_sets
from queryinst.data.shapes import make_shapes
from queryinst.engine import setup_cfg


def decode(annotation):
    return mask_util.decode(annotation["segmentation"]).astype(bool)


def test_write_subset_keeps_the_first_images_with_their_annotations(tmp_path):
    make_shapes(tmp_path, num_train=3, num_val=1)
    source = tmp_path / "shapes" / "annotations" / "train.json"
    target = data_sets.write_subset(source, source.with_name("train_2.json"), 2)
    whole, part = json.loads(source.read_text()), json.loads(target.read_text())
    assert part["images"] == whole["images"][:2]
    kept = [entry for entry in whole["annotations"] if entry["image_id"] in (1, 2)]
    assert 0 < len(kept) < len(whole["annotations"])
    assert part["annotations"] == kept
    assert part["categories"] == whole["categories"]
    assert sorted(path.name for path in source.parent.iterdir()) == [
        "train.json",
        "train_2.json",
        "val.json",
    ]


def test_write_subset_leaves_an_existing_file(tmp_path):
    target = tmp_path / "train_2.json"
    target.write_text("{}")
    assert data_sets.write_subset(tmp_path / "missing.json", target, 2) == target
    assert target.read_text() == "{}"


def test_write_subset_refuses_more_images_than_there_are(tmp_path):
    source = tmp_path / "train.json"
    source.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(ValueError, match="has 1 images, a subset of 2 needs more"):
        data_sets.write_subset(source, tmp_path / "train_2.json", 2)
    assert list(tmp_path.iterdir()) == [source]


def test_prepare_lists_the_names(tmp_path):
    with pytest.raises(ValueError, match="'coin'.*shapes, shapes-500, shapes-50, coins, cells"):
        data_sets.prepare("coin", tmp_path)


def test_prepare_writes_a_subset_beside_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(
        data_sets, "make_shapes", lambda root: make_shapes(root, num_train=3, num_val=1)
    )
    monkeypatch.setitem(data_sets.SUBSETS, "shapes-50", 2)
    whole, part = data_sets.prepare("shapes", tmp_path), data_sets.prepare("shapes-50", tmp_path)
    assert part.train_json == tmp_path / "shapes" / "annotations" / "train_2.json"
    assert part[2:] == whole[2:]  # images, everything held out, classes, options
    assert whole.class_names == part.class_names and len(part.class_names) == 3
    assert len(load_coco_json(str(part.train_json), str(part.train_images))) == 2


def test_prepare_makes_coins_once_and_whole(tmp_path):
    pytest.importorskip("skimage")
    coins = data_sets.prepare("coins", tmp_path)
    assert coins.class_names == ("coin",)
    for path in (coins.train_json, coins.val_json):
        assert len(json.loads(path.read_text())["images"]) == 1
    written = coins.train_json.stat().st_mtime_ns
    assert data_sets.prepare("coins", tmp_path) == coins
    assert coins.train_json.stat().st_mtime_ns == written
    coins.val_json.unlink()
    with pytest.raises(FileExistsError, match="holds no such data set"):
        data_sets.prepare("coins", tmp_path)


@pytest.mark.parametrize("name", data_sets.NAMES)
def test_options_are_keys_of_the_demo_configuration(name):
    options = data_sets.OPTIONS[name]
    config_file = "configs/Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"
    cfg = setup_cfg(config_file, list(options))
    assert cfg.INPUT.MIN_SIZE_TRAIN == options[options.index("INPUT.MIN_SIZE_TRAIN") + 1]
    assert cfg.INPUT.CROP.ENABLED == (name in ("coins", "cells"))


def test_split_tiles_covers_every_pixel_once():
    covered = np.zeros((383, 512), dtype=int)
    shapes = set()
    for tile in cells.split_tiles(383, 512):
        covered[tile] += 1
        shapes.add(covered[tile].shape)
    assert (covered == 1).all()
    assert shapes == {(191, 170), (191, 171), (192, 170), (192, 171)}
    assert list(cells.split_tiles(50, 60)) == [(slice(0, 50), slice(0, 60))]


def synthetic_example(name="a"):
    labels = np.zeros((20, 320), dtype=np.uint16)  # two tiles of 160 columns
    labels[2:6, 10:15] = 1
    labels[8:12, 155:165] = 7  # five columns on each side of the cut
    labels[14:18, 150:165] = 300  # ten, then five
    labels[0, 319] = 9
    return name, np.repeat((labels % 256).astype(np.uint8)[..., None], 3, axis=2), labels


def test_annotate_has_the_mask_of_every_label():
    _, _, labels = synthetic_example()
    annotations = cells.annotate(labels, np.bincount(labels.ravel()))
    for label, annotation in zip((1, 7, 9, 300), annotations, strict=True):
        np.testing.assert_array_equal(decode(annotation), labels == label)
        assert annotation["area"] == (labels == label).sum()
        assert annotation["iscrowd"] == 0
    assert annotations[0]["bbox"] == [10, 2, 5, 4]
    assert cells.annotate(np.zeros((4, 5), dtype=np.uint16), np.array([20])) == []


def test_cut_tiles_makes_less_than_half_a_cell_a_crowd():
    left, right = (
        cells.annotate(tile[2], areas) for tile, areas in cells.cut_tiles(synthetic_example())
    )
    assert [(entry["area"], entry["iscrowd"]) for entry in left] == [(20, 0), (20, 0), (40, 0)]
    assert [(entry["area"], entry["iscrowd"]) for entry in right] == [(20, 0), (1, 0), (20, 1)]


def test_write_cells_splits_by_image(tmp_path, monkeypatch):
    """Of three images a folder the second is held out, as tiles; what is written can be read."""
    monkeypatch.setattr(cells, "fetch_package", write_package)
    cells.write_cells(tmp_path / "cells")
    train, val = (
        load_coco_json(
            str(tmp_path / "cells" / "annotations" / f"{split}.json"),
            str(tmp_path / "cells" / split),
        )
        for split in ("train", "val")
    )
    assert [record["file_name"].rpartition("/")[2] for record in train] == [
        f"{folder}_{name}.png" for folder in cells.FOLDERS for name in ("1", "3")
    ]
    assert [record["file_name"].rpartition("/")[2] for record in val] == [
        f"{folder}_2_{tile}.png" for folder in cells.FOLDERS for tile in (0, 1)
    ]
    assert [len(record["annotations"]) for record in train] == [4] * 6
    assert [len(record["annotations"]) for record in val] == [3] * 6
    _, image, _ = synthetic_example()
    np.testing.assert_array_equal(Image.open(train[0]["file_name"]), image)
    np.testing.assert_array_equal(Image.open(val[1]["file_name"]), image[:, 160:])


def write_package(folder):
    """A source package with three synthetic images a folder, in no order."""
    _, image, labels = synthetic_example()
    path = folder / "package.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for group in (*cells.FOLDERS, "other"):
            for name in ("3", "1", "2"):
                for suffix, pixels in (("img", image), ("masks", labels)):
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "png")
                    member = tarfile.TarInfo(f"package/{group}/{name}_{suffix}.png")
                    member.size = file.tell()
                    file.seek(0)
                    archive.addfile(member, file)
    return path


def test_fetch_package_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "PACKAGE", "scellseg==not a version")  # pip stops at the line
    with pytest.raises(RuntimeError, match="cannot download scellseg==not a version.*: "):
        cells.fetch_package(tmp_path)
