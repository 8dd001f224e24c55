"""A valid data set in COCO's format: 96x64 images with two drawn objects each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

HEIGHT, WIDTH, NUM_IMAGES = 64, 96, 6
CLASSES = ("round", "square", "corner")


def masks_of(number: int) -> list[np.ndarray]:
    """The two masks (H, W) of an image: an ellipse on the left, a rectangle on the right."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across, down = 9 + number, 14 - number
    ellipse = ((x - 20 - number) / across) ** 2 + ((y - 40) / down) ** 2 <= 1
    rectangle = (x > 54 + number) & (x < 84) & (y > 6 + 2 * number) & (y < 26 + number)
    return [ellipse, rectangle]


def make_content() -> dict[str, Any]:
    """What is in the file: ellipses as RLE, text or list, rectangles as polygons."""
    images, annotations = [], []
    for number in range(NUM_IMAGES):
        images.append(
            {"id": 11 + number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
        )
        for place, mask in enumerate(masks_of(number)):
            left, top, right, bottom = bounds_of(mask)
            segmentation: Any = [[left, top, right, top, right, bottom, left, bottom]]
            if place == 0:
                segmentation = _encode(mask, as_list=number % 2 == 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 11 + number,
                    "category_id": 1 + (number + place) % 3,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
    categories = [{"id": id_, "name": name} for id_, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def bounds_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """XYXY of the pixels of a mask (H, W)."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _encode(mask: np.ndarray, as_list: bool) -> dict[str, Any]:
    if as_list:
        flat = np.concatenate([[0], mask.ravel("F"), [0]]).astype(int)
        edges = np.flatnonzero(np.diff(flat)).tolist()
        counts = np.diff([0, *edges, HEIGHT * WIDTH]).tolist()
        return {"size": [HEIGHT, WIDTH], "counts": counts}
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def write_images(folder: Path) -> None:
    """The pictures, in which the objects are brighter."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_IMAGES):
        pixels = np.full((HEIGHT, WIDTH, 3), 40 + number, np.uint8)
        for mask, colour in zip(masks_of(number), ((200, 60, 60), (60, 200, 60))):
            pixels[mask] = colour
        Image.fromarray(pixels).save(folder / f"{number}.png")


def write_json(path: Path, content: Any) -> str:
    """Returns the path as text."""
    path.write_text(json.dumps(content))
    return str(path)
