#!/usr/bin/env python3
"""One photograph with masks, as two data sets in COCO's format; docs/own_data.md goes through it.

The left part of scikit-image's photograph of 24 coins is to train on, the right part is held out.
For images of your own, replace the photograph and `find_coins` by your masks; the rest stays.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from scipy import ndimage
from skimage import data, filters, segmentation

DARK, BRIGHT = 30, 150  # grey values that are background, or coin, for sure
MIN_AREA = 300  # pixels; what is smaller is a speck of light
# Where the photograph is cut: near its middle (192), through one coin only.
CUT = 186
CATEGORIES = [{"id": 1, "name": "coin"}]


def find_coins(image: np.ndarray) -> list[np.ndarray]:
    """One (H, W) bool mask for each coin of a grey photograph: thresholds, then a watershed.

    The watershed floods the edges from the certain pixels, and so settles where each coin ends.
    """
    markers = np.zeros(image.shape, dtype=np.int32)
    markers[image < DARK] = 1
    markers[image > BRIGHT] = 2
    is_coin = segmentation.watershed(filters.sobel(image), markers) == 2
    regions, num_regions = ndimage.label(ndimage.binary_fill_holes(is_coin))
    masks = [regions == index for index in range(1, num_regions + 1)]
    return [mask for mask in masks if mask.sum() >= MIN_AREA]


def cut_masks(masks: list[np.ndarray], columns: slice) -> list[tuple[np.ndarray, bool]]:
    """The masks within some columns, each with whether it is the smaller part of a coin.

    That remainder is no coin to find, and none to punish a model for finding either.
    """
    parts = [(mask[:, columns], mask.sum()) for mask in masks]
    return [(part, bool(part.sum() * 2 < whole)) for part, whole in parts if part.any()]


def to_coco(image_file: str, parts: list[tuple[np.ndarray, bool]]) -> dict:
    """The content of a COCO JSON file for one image; all that Detectron2 and COCO's API read."""
    height, width = parts[0][0].shape
    image = {"id": 1, "file_name": image_file, "height": height, "width": width}
    annotations = []
    for number, (mask, is_remainder) in enumerate(parts, start=1):  # ids begin with 1
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "id": number,
                "image_id": image["id"],
                "category_id": CATEGORIES[0]["id"],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "bbox": [float(side) for side in mask_util.toBbox(rle)],  # x, y, width, height
                "area": int(mask.sum()),
                "iscrowd": int(is_remainder),  # a crowd is not trained on and not counted
            }
        )
    return {"images": [image], "annotations": annotations, "categories": CATEGORIES}


def write_split(root: Path, split: str, image: np.ndarray, masks: list, columns: slice) -> int:
    """Write root/split/coins.png and root/annotations/split.json; returns the number of coins."""
    parts = cut_masks(masks, columns)
    for folder in (root / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[:, columns]).save(root / split / "coins.png")
    coco = to_coco("coins.png", parts)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    return sum(not is_remainder for _, is_remainder in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the coins as two COCO data sets.")
    parser.add_argument("--root", default="datasets/coins", help="folder (default: %(default)s)")
    args = parser.parse_args()
    root = Path(args.root)
    image = data.coins()  # (303, 384) uint8, part of scikit-image
    masks = find_coins(image)
    num_train = write_split(root, "train", image, masks, slice(0, CUT))
    num_val = write_split(root, "val", image, masks, slice(CUT, None))
    print(f"{root}: {num_train} coins to train on (left), {num_val} held out (right)")


if __name__ == "__main__":
    main()
