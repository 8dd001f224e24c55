"""Four images with every kind of mask that COCO JSON has, and predictions for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from PIL import Image

NAME, JSON, IMAGES = "fuzz_data", "annotations.json", "images"
HEIGHT, WIDTH, NUM_CLASSES = 24, 32, 3


def write_images(folder: Path) -> None:
    """The pictures of `annotations`, in the folder IMAGES."""
    rng = np.random.default_rng(0)
    (folder / IMAGES).mkdir()
    for number in range(4):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / IMAGES / f"{number}.png")


def annotations() -> dict[str, Any]:
    """A valid file's content: polygons of one and two parts, both forms of RLE, and a crowd."""
    images = [
        {"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(4)
    ]
    objects = []
    for number in range(12):
        x, y = 2 + number, 3 + number // 2
        box = [x, y, 10, 8]
        annotation = {"id": number + 1, "image_id": 10 + number % 4, "bbox": box}
        annotation["area"] = 30 if number % 4 == 1 else 80
        annotation |= {"category_id": (1, 2, 3)[number % 3], "iscrowd": int(number == 11)}
        annotation["segmentation"] = _segmentation(number, x, y)
        objects.append(annotation)
    categories = [{"id": id_, "name": name} for id_, name in ((1, "cat"), (2, "dog"), (3, "cow"))]
    return {"images": images, "annotations": objects, "categories": categories}


def _segmentation(number: int, x: int, y: int) -> Any:
    if number % 4 == 0:
        return [[x, y, x + 10, y, x + 10.5, y + 8, x, y + 8]]
    if number % 4 == 1:
        return [[x, y, x + 4, y, x, y + 8], [x + 6, y + 1, x + 10, y + 1, x + 10, y + 8]]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + 8, x : x + 10] = 1
    if number % 4 == 2:
        return _text_rle(mask)
    ones = np.diff(np.flatnonzero(np.diff(np.r_[0, mask.ravel("F"), 0])), prepend=0)
    counts = [int(n) for n in ones]
    return {"size": [HEIGHT, WIDTH], "counts": counts + [HEIGHT * WIDTH - sum(counts)]}


def _text_rle(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def predictions() -> list[dict[str, Any]]:
    """What an evaluation writes to coco_instances_results.json."""
    entries = []
    for number in range(6):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[3 : 12 + number, 2 : 12 + number] = 1
        entry = {"image_id": 10 + number % 4, "category_id": (1, 2, 3)[number % 3]}
        entry |= {"bbox": [2.0, 3.0, 10.0 + number, 9.0 + number], "score": 0.9 - 0.1 * number}
        entries.append({**entry, "segmentation": _text_rle(mask)})
    return entries


def detections() -> Instances:
    """The same objects on each image, as the model would give them."""
    boxes = torch.tensor([[2.0, 3.0, 12.0, 11.0], [5.0, 4.0, 20.0, 20.0]])
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 3:11, 2:12] = masks[1, 4:20, 5:20] = True
    fields = {"scores": torch.tensor([0.9, 0.6]), "pred_classes": torch.tensor([0, 1])}
    return Instances((HEIGHT, WIDTH), pred_boxes=Boxes(boxes), pred_masks=masks, **fields)


def register(json_file: Path, images: Path) -> None:
    """Register NAME anew: nothing of an earlier file remains."""
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    if NAME in MetadataCatalog.list():
        MetadataCatalog.remove(NAME)
    register_coco_instances(NAME, {}, str(json_file), str(images))


def write_data(folder: Path) -> None:
    """Images and file below `folder`, registered as NAME."""
    write_images(folder)
    (folder / JSON).write_text(json.dumps(annotations()))
    register(folder / JSON, folder / IMAGES)
