"""What MMDetection 3.3.0's Resize makes of images, masks and boxes: tests/data/goldens/resize.npz.

Needs mmdet==3.3.0 with mmcv or mmcv-lite 2.1.0, in an environment of their own:

    python tests/parity/make_resize_golden.py
"""

import sys
import types
from pathlib import Path

import cv2
import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "goldens" / "resize.npz"
NUM_SIZES = 500
SHORT_SIDES = (400, 480, 500, 512, 600, 608, 640, 704, 768, 800)
LONG_SIDE = 1333
# Height, width and short side of which Detectron2 makes a width of 451, mmcv of 452.
ROUNDS_OTHERWISE = (682, 231, 800)
# (height, width, short side, longest long side): enlarged, shrunk, limited by the long side,
# halved exactly (where OpenCV averages four pixels), left as it is, enlarged as far as the long
# side allows, a sliver.
CASES = (
    (16, 25, 27, 64),
    (41, 30, 19, 64),
    (33, 61, 30, 40),
    (32, 48, 16, 64),
    (20, 27, 20, 64),
    (22, 46, 31, 53),
    (3, 75, 20, 50),
)


def stand_in_for_operators() -> None:
    """mmcv-lite has no compiled operators; resizing needs none, but mmdet imports them."""

    def fail(*args, **kwargs):
        raise RuntimeError("an operator of mmcv was called")

    def find(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return fail

    stub = types.ModuleType("mmcv._ext")
    stub.__getattr__ = find
    sys.modules.setdefault("mmcv._ext", stub)


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise over a gradient, (H, W, 3) uint8, and two masks (2, H, W): a disc and speckles."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    image = np.clip(ramp + rng.normal(0, 60, ramp.shape), 0, 255).astype(np.uint8)
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2
    return image, np.stack([disc, rng.random((height, width)) < 0.3]).astype(np.uint8)


def size_table(rng: np.random.Generator) -> np.ndarray:
    """(NUM_SIZES, 6): height, width, short side, long side -> new height, new width."""
    import mmcv

    drawn = [(*rng.integers(32, 3000, 2), rng.choice(SHORT_SIDES)) for _ in range(NUM_SIZES - 1)]
    rows = []
    for row in [ROUNDS_OTHERWISE, *drawn]:
        height, width, short_side = (int(side) for side in row)
        new_width, new_height = mmcv.rescale_size((width, height), (short_side, LONG_SIDE))
        rows.append((height, width, short_side, LONG_SIDE, new_height, new_width))
    return np.array(rows, dtype=np.int32)


def make() -> dict[str, np.ndarray]:
    """Named arrays; those of one case end with its number."""
    stand_in_for_operators()
    import mmcv
    import mmdet
    import torch
    from mmdet.datasets.transforms import Resize
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    rng = np.random.default_rng(0)
    arrays = {
        "versions": np.array([f"mmdet {mmdet.__version__}", f"mmcv {mmcv.__version__}"]),
        "opencv": np.array(cv2.__version__),
        "sizes": size_table(rng),
        "cases": np.array(CASES, dtype=np.int32),
    }
    for case, (height, width, short_side, long_side) in enumerate(CASES):
        image, masks = draw(rng, height, width)
        corner = rng.random((3, 2)) * (width / 2, height / 2)
        boxes = np.hstack([corner, corner + rng.random((3, 2)) * (width / 2, height / 2)])
        inputs = {
            "img": image.copy(),
            "gt_bboxes": HorizontalBoxes(torch.from_numpy(boxes.astype(np.float32))),
            "gt_masks": BitmapMasks(masks.copy(), height, width),
        }
        outputs = Resize(scale=(long_side, short_side), keep_ratio=True)(inputs)
        arrays[f"image_{case}"], arrays[f"masks_{case}"] = image, masks
        arrays[f"boxes_{case}"] = boxes.astype(np.float32)
        arrays[f"image_out_{case}"] = outputs["img"]
        arrays[f"masks_out_{case}"] = outputs["gt_masks"].masks
        arrays[f"boxes_out_{case}"] = outputs["gt_bboxes"].tensor.numpy()
    return arrays


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **make())
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
