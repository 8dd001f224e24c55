"""One truth, and functions that write it in each of the formats."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
import pytest
import yaml
from PIL import Image

HEIGHT, WIDTH = 64, 96
CLASSES = ["bolt", "nut", "washer"]


class Thing(NamedTuple):
    """An object: its class, and one polygon in pixels."""

    name: str
    polygon: list[float]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, as COCO draws the polygon."""
        (rle,) = mask_util.frPyObjects([self.polygon], HEIGHT, WIDTH)
        return mask_util.decode(rle).astype(bool)


Truth = dict[str, dict[str, list[Thing]]]  # by part and file name


def make_truth() -> Truth:
    """Six images to train on, two to validate on: four objects each, two of which touch.

    No two share a pixel, so that label images hold them as well.
    """
    rng = np.random.default_rng(0)
    truth: Truth = {"train": {}, "val": {}}
    for number in range(8):
        part = "train" if number < 6 else "val"
        x, y, middle = (int(side) for side in rng.integers((4, 4, 20), (10, 10, 30)))
        polygons = [
            [x, y, middle, y, middle, 30, x, 30],  # a rectangle and one that touches it
            [middle, y, 44, y, 44, 28, middle, 28],
            [50.5, 8.25, 90.25, 12.5, 60.75, 30.5 + y],  # a triangle
            [10, 40, 60, 44, 80, 60, 30, 62, 5.5, 50.25],
        ]
        names = [CLASSES[i] for i in rng.permutation([0, 1, 2, number % 3])]
        things = [Thing(name, list(map(float, p))) for name, p in zip(names, polygons)]
        truth[part][f"photo {number}.png"] = things
    return truth


def picture_of(things: list[Thing], seed: int) -> Image.Image:
    """Noise, with a brightness for each class where its objects are."""
    pixels = np.random.default_rng(seed).integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for thing in things:
        pixels[thing.mask] += np.uint8(60 * (1 + CLASSES.index(thing.name)))
    return Image.fromarray(pixels)


def write_images(truth: Truth, folder_of: Callable[[str], Path]) -> None:
    for part, images in truth.items():
        folder_of(part).mkdir(parents=True, exist_ok=True)
        for name, things in images.items():
            picture_of(things, sorted(images).index(name)).save(folder_of(part) / name)


def coco_of(images: Mapping[str, list[Thing]]) -> dict[str, Any]:
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 3 + i, "name": name} for i, name in enumerate(CLASSES)]
    for number, (name, things) in enumerate(images.items(), start=1):
        size = {"height": HEIGHT, "width": WIDTH}
        content["images"].append({"id": number, "file_name": name, **size})
        for thing in things:
            points = np.reshape(thing.polygon, (-1, 2))
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": 3 + CLASSES.index(thing.name),
                "segmentation": [thing.polygon],
                "bbox": [*points.min(0), *np.ptp(points, 0)],
                "area": int(thing.mask.sum()),
                "iscrowd": 0,
            }
            content["annotations"].append(annotation)
    return content


def write_coco(truth: Truth, folder: Path) -> None:
    """annotations/instances_train.json, and the images in train/."""
    write_images(truth, lambda part: folder / part)
    (folder / "annotations").mkdir()
    for part, images in truth.items():
        path = folder / "annotations" / f"instances_{part}.json"
        path.write_text(json.dumps(coco_of(images)))


def write_roboflow(truth: Truth, folder: Path) -> None:
    """train/_annotations.coco.json beside the images, and valid/."""
    names = {"train": "train", "val": "valid"}
    write_images(truth, lambda part: folder / names[part])
    for part, images in truth.items():
        path = folder / names[part] / "_annotations.coco.json"
        path.write_text(json.dumps(coco_of(images)))


def write_yolo(truth: Truth, folder: Path) -> None:
    """data.yaml, images/train/ and labels/train/."""
    write_images(truth, lambda part: folder / "images" / part)
    for part, images in truth.items():
        (folder / "labels" / part).mkdir(parents=True)
        for name, things in images.items():
            lines = []
            for thing in things:
                points = np.reshape(thing.polygon, (-1, 2)) / [WIDTH, HEIGHT]
                numbers = " ".join(f"{side:.8f}" for side in points.ravel())
                lines.append(f"{CLASSES.index(thing.name)} {numbers}")
            path = folder / "labels" / part / name
            path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    content = {"path": ".", "nc": 3, "names": dict(enumerate(CLASSES))}
    content |= {part: f"images/{part}" for part in truth}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def write_labelme(truth: Truth, folder: Path) -> None:
    """train/a.json beside train/a.png."""
    write_images(truth, lambda part: folder / part)
    for part, images in truth.items():
        for name, things in images.items():
            shapes = [
                {
                    "label": thing.name,
                    "points": np.reshape(thing.polygon, (-1, 2)).tolist(),
                    "group_id": None,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for thing in things
            ]
            content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name}
            content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
            (folder / part / name).with_suffix(".json").write_text(json.dumps(content))


def write_label_images(truth: Truth, folder: Path) -> None:
    """images/train/a.png, masks/train/bolt/a.png: one folder a class, numbers of 8 bits."""
    write_images(truth, lambda part: folder / "images" / part)
    for part, images in truth.items():
        for name, things in images.items():
            for class_name in {thing.name for thing in things}:
                numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
                for number, thing in enumerate(things, start=7):
                    numbers[thing.mask] = number if thing.name == class_name else 0
                path = folder / "masks" / part / class_name / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(numbers).save(path)


def write_label_table(truth: Truth, folder: Path) -> None:
    """train/images/a.png, train/masks/a.png of 16 bits; names.csv has number and class."""
    write_images(truth, lambda part: folder / part / "images")
    for part, images in truth.items():
        (folder / part / "masks").mkdir()
        for name, things in images.items():
            numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
            for number, thing in enumerate(things, start=300):
                numbers[thing.mask] = 1000 * CLASSES.index(thing.name) + number
            Image.fromarray(numbers).save(folder / part / "masks" / name)
    rows = [f"{1000 * i + n},{name}\n" for i, name in enumerate(CLASSES) for n in range(300, 304)]
    (folder / "names.csv").write_text("id,class\n" + "".join(rows))


WRITERS = {
    "coco": write_coco,
    "roboflow": write_roboflow,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "label images": write_label_images,
    "label images with a table": write_label_table,
}
FORMATS = list(WRITERS)


@pytest.fixture(scope="session")
def model_file(save_tiny_model, tmp_path_factory) -> str:
    """A checkpoint of a tiny model of the truth's classes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    ids = {"dataset_id_map": {1: 0, 2: 1, 3: 2}}
    return str(save_tiny_model(folder, thing_classes=CLASSES, **ids))


@pytest.fixture(scope="session")
def truth() -> Truth:
    return make_truth()


@pytest.fixture(params=FORMATS)
def any_format(request, truth, tmp_path) -> str:
    """The truth in each of the formats: a folder."""
    folder = tmp_path / request.param
    folder.mkdir()
    WRITERS[request.param](truth, folder)
    return str(folder)


@pytest.fixture
def write_as(truth, tmp_path) -> Callable[..., Path]:
    """Writes the truth, or another, in a format; returns the folder."""

    def write(name: str, folder: str = "data", truth: Truth = truth) -> Path:
        (tmp_path / folder).mkdir()
        WRITERS[name](truth, tmp_path / folder)
        return tmp_path / folder

    return write


def objects_of(json_file: str) -> dict[str, list[tuple[str, bytes]]]:
    """(class, mask) of the objects of each image of a COCO JSON, in an order of their own.

    An oracle: reads the JSON with pycocotools' drawing alone.
    """
    content = json.loads(Path(json_file).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[str, list[tuple[str, bytes]]] = {x["file_name"]: [] for x in content["images"]}
    images = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        mask = drawn(annotation["segmentation"], image["height"], image["width"])
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        found[image["file_name"]].append((names[annotation["category_id"]], mask.tobytes()))
    return {name: sorted(objects) for name, objects in found.items()}


def drawn(segmentation: Any, height: int, width: int) -> np.ndarray:
    rles = (
        mask_util.frPyObjects(segmentation, height, width)
        if isinstance(segmentation, list)
        else None
    )
    return mask_util.decode(mask_util.merge(rles) if rles else segmentation).astype(bool)


@pytest.fixture(scope="session")
def read_objects():
    return objects_of


@pytest.fixture(scope="session")
def expected(truth):
    """What `read_objects` should give of each part."""
    return {
        part: {
            name: sorted((thing.name, thing.mask.tobytes()) for thing in things)
            for name, things in images.items()
        }
        for part, images in truth.items()
    }
