"""The example of docs/own_data.md, up to what its training would read."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from queryinst.engine import setup_cfg

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
WIDTHS = {"train": 186, "val": 384 - 186}  # of the photograph's two parts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("coins", EXAMPLES / "coins_to_coco.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("coins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["coins_to_coco.py", "--root", str(folder)])
        module.main()
    return folder


def read(root, split):
    coco = json.loads((root / "annotations" / f"{split}.json").read_text())
    image = np.asarray(Image.open(root / split / coco["images"][0]["file_name"]))
    return coco, image


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_part_has_twelve_coins_on_coins(root, split):
    coco, image = read(root, split)
    assert (
        image.shape
        == (303, WIDTHS[split])
        == tuple(coco["images"][0][side] for side in ("height", "width"))
    )
    coins = [a for a in coco["annotations"] if not a["iscrowd"]]
    assert len(coins) == 12
    for coin in coins:
        mask = mask_util.decode(coin["segmentation"]).astype(bool)
        x, y, width, height = map(int, coin["bbox"])
        assert coin["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
        assert mask.sum() == pytest.approx(np.pi / 4 * width * height, rel=0.12)  # an ellipse
        around = np.zeros_like(mask)
        around[max(y - 4, 0) : y + height + 4, max(x - 4, 0) : x + width + 4] = True
        assert image[mask].mean() > image[around & ~mask].mean() + 30  # brighter than around it
    covered = sum(mask_util.decode(a["segmentation"]).astype(int) for a in coco["annotations"])
    assert covered.max() == 1
    assert (covered[image > 150] == 1).mean() > 0.99  # no bright coin was left out


def test_the_parts_share_no_pixel_and_whole_coins_are_held_out(root):
    from skimage import data

    (train, left), (val, right) = read(root, "train"), read(root, "val")
    assert np.array_equal(np.concatenate([left, right], axis=1), data.coins())
    assert sum(a["iscrowd"] for a in train["annotations"]) == 0
    crowds = [a["bbox"][0] for a in val["annotations"] if a["iscrowd"]]
    assert crowds == [0]  # what the cut left of one coin, at the border
    assert all(a["bbox"][0] > 0 or a["iscrowd"] or a["bbox"][2] > 30 for a in val["annotations"])


def test_detectron2_reads_it(root):
    (image,) = load_coco_json(str(root / "annotations" / "val.json"), str(root / "val"))
    assert image["width"] == WIDTHS["val"]
    assert sorted(a["iscrowd"] for a in image["annotations"]) == [0] * 12 + [1]


def test_configuration_has_the_guides_names_and_class_count(root):
    cfg = setup_cfg(str(EXAMPLES / "coins.yaml"))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(read(root, "train")[0]["categories"])
    guide = (ROOT / "docs" / "own_data.md").read_text()
    commands = re.findall(r"--dataset (\S+) (\S+) (\S+)", guide)
    assert {name for name, _, _ in commands} >= {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    for name, json_file, folder in commands:
        split = name.removeprefix("coins_")
        if split in WIDTHS:
            assert json_file == f"datasets/coins/annotations/{split}.json"
            assert folder == f"datasets/coins/{split}"
    assert f"output/{Path(cfg.OUTPUT_DIR).name}/model_final.pth" in guide
