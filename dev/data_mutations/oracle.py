"""What a COCO JSON says, read without this project: objects by image, with masks of their own.

Raises whatever it raises: it reads what the check has accepted.
"""

from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util


class Object(NamedTuple):
    name: str  # of its class
    box: tuple[float, ...]  # XYWH
    mask: bytes  # (H, W) of 0 and 1


class Truth(NamedTuple):
    """What a file says.

    Attributes:
        size: height and width by the file's name.
        objects: by the file's name, in the order of the file; without crowds.
        classes: names in the order of their ids.
    """

    size: dict[str, tuple[int, int]]
    objects: dict[str, list[Object]]
    classes: list[str]


def read_truth(content: dict[str, Any]) -> Truth:
    """Of the content of an accepted file; annotations of unknown images do not count."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    size = {image["file_name"]: (image["height"], image["width"]) for image in content["images"]}
    objects: dict[str, list[Object]] = {file_name: [] for file_name in size}
    for annotation in content.get("annotations", []):
        image = images.get(annotation["image_id"])
        if image is None or annotation["iscrowd"]:
            continue
        mask = _mask_of(annotation["segmentation"], image["height"], image["width"])
        box = tuple(map(float, annotation["bbox"]))
        objects[image["file_name"]].append(
            Object(names[annotation["category_id"]], box, mask.tobytes())
        )
    return Truth(size, objects, [names[id_] for id_ in sorted(names)])


def _mask_of(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = counts if isinstance(counts, list) else _decode(counts)
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        return np.ascontiguousarray(flat.reshape(width, height).T, dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for polygon in segmentation:
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            rle = mask_util.frPyObjects([[float(x) for x in polygon]], height, width)
            mask |= mask_util.decode(rle)[:, :, 0]
    return mask


def _decode(text: str) -> list[int]:
    """COCO's text of runs: five bits a character, from the fourth on as differences."""
    runs: list[int] = []
    number = place = 0
    for character in text:
        code = ord(character) - 48
        number |= (code & 31) << (5 * place)
        place += 1
        if code & 32:
            continue
        if code & 16:
            number -= 1 << (5 * place)
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = place = 0
    return runs
