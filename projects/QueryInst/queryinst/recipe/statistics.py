"""The figures of a data set that its recipe depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_WINDOWS = 2_000  # that objects are counted in


@dataclass(frozen=True)
class DataStatistics:
    """N images with M objects, which are no crowds, of K classes.

    Attributes:
        class_names: in the order in which the model numbers them.
        heights, widths: (N,) pixels of the images.
        image_idx: (M,) of the object's image, rising.
        class_idx: (M,) of its class.
        centers: (M, 2) x and y in pixels of the image.
        sizes: (M,) pixels, the square root of width x height of the box.
    """

    class_names: tuple[str, ...]
    heights: np.ndarray
    widths: np.ndarray
    image_idx: np.ndarray
    class_idx: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.heights)

    @property
    def num_objects(self) -> int:
        return len(self.sizes)

    @property
    def num_empty(self) -> int:
        """Images without objects."""
        return int((self.objects_per_image == 0).sum())

    @property
    def objects_per_image(self) -> np.ndarray:
        """(N,) numbers of objects."""
        return np.bincount(self.image_idx, minlength=self.num_images)

    @property
    def most_objects(self) -> int:
        """In one image."""
        return int(self.objects_per_image.max(initial=0))

    @property
    def images_per_class(self) -> np.ndarray:
        """(K,) images that have an object of the class."""
        pairs = np.unique(np.stack([self.image_idx, self.class_idx]), axis=1)
        return np.bincount(pairs[1], minlength=len(self.class_names))

    @property
    def short_side(self) -> float:
        """Pixels, the median."""
        return float(np.median(np.minimum(self.heights, self.widths)))

    @property
    def long_side(self) -> float:
        """Pixels, the median."""
        return float(np.median(np.maximum(self.heights, self.widths)))

    def most_in_window(self, side: float) -> int:
        """Of a square of `side` pixels, the most objects whose centers it has.

        It is tried around the objects, of many a sample.
        """
        order = np.argsort(self.image_idx, kind="stable")
        centers = self.centers[order]
        ends = np.cumsum(self.objects_per_image)
        step = max(1, self.num_objects // _MOST_WINDOWS)
        most = 0
        for position in range(0, self.num_objects, step):
            image = self.image_idx[order[position]]
            start = ends[image - 1] if image else 0
            apart = np.abs(centers[start : ends[image]] - centers[position])
            most = max(most, int((apart <= side / 2).all(axis=1).sum()))
        return most


def statistics_of(coco: Mapping[str, Any]) -> DataStatistics:
    """The figures of the content of a COCO JSON, which has been checked.

    Objects without a box of positive sides count as objects of a pixel.
    """
    images, categories = coco["images"], sorted(coco["categories"], key=lambda x: x["id"])
    image_numbers = {image["id"]: number for number, image in enumerate(images)}
    class_numbers = {category["id"]: number for number, category in enumerate(categories)}
    objects = [
        x
        for x in coco.get("annotations") or ()
        if not x.get("iscrowd") and x["image_id"] in image_numbers
    ]
    objects.sort(key=lambda x: image_numbers[x["image_id"]])
    boxes = np.array([x["bbox"] for x in objects], dtype=np.float64).reshape(-1, 4)
    return DataStatistics(
        class_names=tuple(str(category["name"]) for category in categories),
        heights=np.array([int(image["height"]) for image in images]),
        widths=np.array([int(image["width"]) for image in images]),
        image_idx=np.array([image_numbers[x["image_id"]] for x in objects], dtype=np.int64),
        class_idx=np.array([class_numbers[x["category_id"]] for x in objects], dtype=np.int64),
        centers=boxes[:, :2] + boxes[:, 2:] / 2,
        sizes=np.sqrt(np.maximum(boxes[:, 2] * boxes[:, 3], 1.0)),
    )
