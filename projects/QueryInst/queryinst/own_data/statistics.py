"""The figures of a data set: how many objects, of which classes and sizes, in how many images."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

from ..data.instance_checks import find_box_problem
from ..data.mask_bounds import MAX_COORDINATE, is_number

SIZE_BOUNDS = (32, 96)  # pixels: COCO's limits of small and medium objects, as sides of a square
PERCENTILES = (5, 50, 95)
_ROW = np.dtype([("image", "i4"), ("class", "i4"), ("is_crowd", "?"), ("side", "f4")])


class TrainingScale(NamedTuple):
    """What of a configuration the figures are held against.

    Attributes:
        short_side: in pixels, to which images are brought: the middle of INPUT.MIN_SIZE_TRAIN;
            0 for none.
        max_size: INPUT.MAX_SIZE_TRAIN, in pixels.
        num_queries: MODEL.QUERYINST.NUM_QUERIES.
        detections: TEST.DETECTIONS_PER_IMAGE.
    """

    short_side: float
    max_size: int
    num_queries: int
    detections: int

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "TrainingScale":
        return cls(
            float(np.median(cfg.INPUT.MIN_SIZE_TRAIN)),
            cfg.INPUT.MAX_SIZE_TRAIN,
            cfg.MODEL.QUERYINST.NUM_QUERIES,
            cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    def factors(self, image_sizes: np.ndarray) -> np.ndarray:
        """By which Detectron2 enlarges images.

        Args:
            image_sizes: (I, 2), width and height in pixels.

        Returns:
            (I,), float64.
        """
        if not self.short_side:
            return np.ones(len(image_sizes))
        short, long = image_sizes.min(axis=1), image_sizes.max(axis=1)
        return np.minimum(self.short_side / short, self.max_size / long)


class Percentiles(NamedTuple):
    """Values that 5, 50, 95 and 100 of 100 do not exceed; 0 of none."""

    p5: float
    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Percentiles":
        if not len(values):
            return cls(0, 0, 0, 0)
        found = np.percentile(values, (*PERCENTILES, 100), method="inverted_cdf")
        return cls(*found.tolist())


class ClassStatistics(NamedTuple):
    """Of a class: crowds are no objects; the median of its objects' sizes at training scale."""

    name: str
    num_objects: int
    num_crowds: int
    num_images: int
    median_size: float


class SplitStatistics:
    """The figures of one part of a data set.

    Attributes:
        name, json_file, image_root: of the part.
        thing_classes: in the order in which the model numbers them.
        image_sizes: (I, 2), width and height in pixels, as the annotations say.
        rows: (A,) of _ROW, an annotation each; "side" is the square root of its area in pixels.
    """

    def __init__(
        self,
        split: Any,
        thing_classes: Sequence[str],
        image_sizes: np.ndarray,
        rows: np.ndarray,
        scale: TrainingScale,
    ):
        self.name, self.json_file, self.image_root = split.name, split.json_file, split.image_root
        self.thing_classes = list(thing_classes)
        self.image_sizes, self.rows, self.scale = image_sizes, rows, scale

    @property
    def num_images(self) -> int:
        return len(self.image_sizes)

    @property
    def num_objects(self) -> int:
        return int((~self.rows["is_crowd"]).sum())

    @property
    def num_crowds(self) -> int:
        return int(self.rows["is_crowd"].sum())

    @cached_property
    def objects_per_image(self) -> np.ndarray:
        """(I,), crowds left out."""
        objects = self.rows[~self.rows["is_crowd"]]
        return np.bincount(objects["image"], minlength=self.num_images)

    @property
    def num_images_without_objects(self) -> int:
        return int((self.objects_per_image == 0).sum())

    @cached_property
    def object_sizes(self) -> np.ndarray:
        """(objects,) square roots of their areas at training scale, in pixels; crowds left out."""
        objects = self.rows[~self.rows["is_crowd"]]
        sizes = objects["side"] * self.scale.factors(self.image_sizes)[objects["image"]]
        return sizes[np.isfinite(sizes)]

    @property
    def size_counts(self) -> tuple[int, int, int]:
        """Small, medium and large objects at training scale."""
        bins = np.bincount(np.digitize(self.object_sizes, SIZE_BOUNDS), minlength=3)
        return int(bins[0]), int(bins[1]), int(bins[2])

    def num_images_over(self, limit: int) -> int:
        """Images with more objects than `limit`."""
        return int((self.objects_per_image > limit).sum())

    def classes(self) -> Iterator[ClassStatistics]:
        factors = self.scale.factors(self.image_sizes)
        order = np.argsort(self.rows["class"], kind="stable")
        bounds = np.searchsorted(self.rows["class"][order], range(len(self.thing_classes) + 1))
        for name, start, end in zip(self.thing_classes, bounds, bounds[1:]):
            rows = self.rows[order[start:end]]
            objects = rows[~rows["is_crowd"]]
            sizes = objects["side"] * factors[objects["image"]]
            yield ClassStatistics(
                name,
                len(objects),
                len(rows) - len(objects),
                len(np.unique(objects["image"])),
                Percentiles.of(sizes[np.isfinite(sizes)]).p50,
            )

    def common_image_sizes(self, count: int) -> list[tuple[int, int, int]]:
        """(width, height, images) of the most frequent sizes."""
        sizes, counts = np.unique(self.image_sizes, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:count]
        return [(*sizes[i].tolist(), int(counts[i])) for i in order]


def measure(
    split: Any,
    images: Mapping[Any, Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    classes: Mapping[Any, str],
    scale: TrainingScale,
) -> SplitStatistics:
    """The figures of annotations that may have errors; those that cannot be counted are left out.

    Args:
        split: has `name`, `json_file` and `image_root`.
        images: by their ids, with valid sizes.
        classes: names by category ids, in the order in which the model numbers them.
    """
    sizes = np.array([(x["width"], x["height"]) for x in images.values()], np.int64).reshape(-1, 2)
    rows = np.fromiter(_rows(images, annotations, classes), _ROW)
    return SplitStatistics(split, list(classes.values()), sizes, rows, scale)


def _rows(images, annotations, classes) -> Iterator[tuple[int, int, bool, float]]:
    image_numbers = {id_: number for number, id_ in enumerate(images)}
    class_numbers = {id_: number for number, id_ in enumerate(classes)}
    for annotation in annotations:
        image = image_numbers.get(annotation["image_id"])
        class_ = class_numbers.get(annotation["category_id"])
        if image is not None and class_ is not None:
            yield image, class_, bool(annotation.get("iscrowd", 0)), _side(annotation)


def _side(annotation: Mapping[str, Any]) -> float:
    """The square root of the area, in pixels: as it is written, else of the box; NaN of neither."""
    area = annotation.get("area")
    if is_number(area) and 0 < area <= MAX_COORDINATE**2:
        return area**0.5
    box: Any = annotation.get("bbox")
    if find_box_problem(box):
        return np.nan
    return (box[2] * box[3]) ** 0.5


def plain_name(name: str) -> str:
    """A class name without case, spaces, "-" and "_", by which likely misspellings are equal."""
    return "".join(c for c in name.casefold() if not c.isspace() and c not in "-_") or name
