"""The real data set `cells`: stained cells under the microscope, each outlined by a person.

Source: 15 of the images with masks inside the source package of scellseg 0.1.8 (its folders
Kc167, macrophagocyte and neurocyte: cultured cells, nuclei red and cytoplasm green), which its
code calls a subset of Cellpose's training set (Stringer et al., Nature Methods 2021). The package
is under the 3-clause BSD licence; the terms of the original images may be narrower, so they are
fetched where they are needed, and nothing of them is part of this project.

A mask is one label of the package's label images, as it is: nothing is computed. Of each folder
the second and the fourth image are held out, the others train, so no image is in both splits.
Training sees whole images, which it crops. Held-out images are cut into tiles about as large as
these crops; what a cut leaves of a cell is a crowd if it is less than half of it, which COCO's
evaluation neither asks for nor counts as wrong. That makes 9 images of 400 to 512 pixels with 541
cells to train on, and 37 tiles of 150 to 200 pixels with 445 cells, at most 23 in one, and 142
crowds held out; half of the cells measure 30 pixels (square root of the area) or more.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

PACKAGE = "scellseg==0.1.8"
SHA256 = "084c5f1b12d0d97f0c3d0880ae579c1b7c4f7dea2203486bd11ba4c640a92d3c"
FOLDERS = ("Kc167", "macrophagocyte", "neurocyte")
CATEGORIES = [{"id": 1, "name": "cell"}]
TILE_SIDE = 160  # pixels, about: a tile is a whole fraction of its image

Example = tuple[str, np.ndarray, np.ndarray]  # name, image (H, W, 3) uint8, labels (H, W), 0: none


def fetch_package(folder: Path) -> Path:
    """The source package, downloaded to `folder` and not installed.

    pip checks the digest before it opens the package, and then asks the package's own setup.py,
    which needs setuptools here, for the version.

    Raises:
        RuntimeError: pip does not get this very file.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"pip cannot download {PACKAGE}, which holds the cells: {reason}")
    return next(folder.glob("*.tar.gz"))


def read_examples(package: Path, folder: str) -> list[Example]:
    """All images with masks of one of FOLDERS, in the order of their names."""
    with tarfile.open(package) as archive:
        paths = {
            Path(member.name).name: member
            for member in archive.getmembers()
            if member.isfile() and Path(member.name).parent.name == folder
        }
        names = sorted(name.removesuffix("_img.png") for name in paths if name.endswith("_img.png"))
        return [
            (
                f"{folder}_{name}",
                np.asarray(
                    Image.open(archive.extractfile(paths[f"{name}_img.png"])).convert("RGB")
                ),
                np.asarray(Image.open(archive.extractfile(paths[f"{name}_masks.png"]))),
            )
            for name in names
        ]


def split_tiles(height: int, width: int, side: int = TILE_SIDE) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of disjoint tiles that cover an image, each side closest to `side`."""
    rows, columns = (
        np.linspace(0, length, max(1, round(length / side)) + 1).astype(int)
        for length in (height, width)
    )
    for top, bottom in zip(rows, rows[1:]):
        for left, right in zip(columns, columns[1:]):
            yield slice(top, bottom), slice(left, right)


def cut_tiles(example: Example) -> Iterator[tuple[Example, np.ndarray]]:
    """The tiles of an image, each with the area that every label has in the whole image."""
    name, image, labels = example
    areas = np.bincount(labels.ravel())
    for number, tile in enumerate(split_tiles(*labels.shape)):
        yield (f"{name}_{number}", image[tile], labels[tile]), areas


def annotate(labels: np.ndarray, whole_areas: np.ndarray) -> list[dict]:
    """COCO's fields of every label present, but the numbers of annotation and image.

    Args:
        labels: (H, W) integers, 0 is background.
        whole_areas: (L,) pixels that each label has in the image that this one is cut out of; with
            less than half of them it is a crowd.
    """
    annotations = []
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        area = int(mask.sum())
        annotations.append(
            {
                "category_id": CATEGORIES[0]["id"],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "bbox": [float(side) for side in mask_util.toBbox(rle)],  # x, y, width, height
                "area": area,
                "iscrowd": int(2 * area < whole_areas[label]),
            }
        )
    return annotations


def write_split(root: Path, split: str, parts: list[tuple[Example, np.ndarray]]) -> None:
    """Write root/split/*.png and then root/annotations/split.json; ids begin with 1."""
    for folder in (root / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id, ((name, image, labels), areas) in enumerate(parts, start=1):
        file_name = f"{name}.png"
        Image.fromarray(image).save(root / split / file_name)
        height, width = labels.shape
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for fields in annotate(labels, areas):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **fields})
    coco = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations" / f"{split}.json").write_text(json.dumps(coco))


def write_cells(root: Path) -> None:
    """Write both splits below `root`; fetches the package, about 100 MB, and keeps none of it."""
    with tempfile.TemporaryDirectory() as folder:
        package = fetch_package(Path(folder))
        examples = [read_examples(package, name) for name in FOLDERS]
    train = [example for group in examples for example in group[0::2]]
    val = [example for group in examples for example in group[1::2]]
    write_split(root, "train", [(example, np.bincount(example[2].ravel())) for example in train])
    write_split(root, "val", [tile for example in val for tile in cut_tiles(example)])
