"""The annotations of one data set, one by one and all together."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from . import problem_kinds as kinds
from .box_suspicions import LEAST_SIZE, Suspicions
from .findings import Finding, Findings, Kind, ProblemError
from .instance_checks import (
    Annotation,
    Box,
    Image,
    describe,
    has_mask,
    parse_area,
    parse_box,
    parse_crowd,
    parse_instance_mask,
)
from .mask_bounds import is_area, shorten
from .mask_shapes import MaskShape, drawn_area, measure

_AREA_SHARE = 0.5  # of the mask's, by which an area may differ


class Use(NamedTuple):
    """How a run uses a data set.

    Attributes:
        trained, evaluated: whether anything trains and evaluates on it.
        masks: whether each annotation needs a mask. One that is there is checked anyway, because
            Detectron2's loaders hand it to C code.
        num_queries: objects of an image that the model can find; None if it is not known.
        detections: of an image that are kept.
        num_classes: of the model; 0 if it is not known.
        max_pixels: an image has at most; INPUT.MAX_PIXELS.
    """

    trained: bool
    evaluated: bool
    masks: bool
    num_queries: int | None
    detections: int
    num_classes: int
    max_pixels: int


class SetCheck:
    """Adds all problems of annotations to `findings`.

    Attributes:
        num_instances: annotations without an error that are no crowds.
        num_usable: those of them that a training does not leave out.
    """

    def __init__(self, source: str, findings: Findings, use: Use):
        self.source, self.findings, self.use = source, findings, use
        self.num_instances = self.num_usable = self.num_crowds = self.num_errors = 0
        self._places: list[tuple[Annotation, Image, int]] = []  # of what looks suspicious
        self._suspicions = Suspicions()
        self._first: dict[int, Annotation] = {}  # by what equal objects share
        self._per_image: Counter[int] = Counter()
        self._images: dict[int, Image] = {}

    def report(
        self, kind: Kind, text: str, annotation: Annotation, image: Image, position: int = -1
    ) -> None:
        """Add a problem of an annotation; `text` goes on after what names it."""
        finding = Finding(
            self.source,
            f"{describe(annotation, image)} {text}",
            image.get("id", image.get("image_id")),
            annotation.get("id"),
            str(image["file_name"]),
            position,
        )
        self.findings.add(kind, finding)

    def add(
        self, annotation: Annotation, image: Image, position: int = -1, *, area: bool = False
    ) -> bool:
        """Check an annotation of a valid image.

        Args:
            position: in its list; -1 if it has none.
            area: whether it needs an area.

        Returns:
            Whether it has no error.
        """
        errors: list[ProblemError] = []
        crowd = _collect(errors, parse_crowd, annotation)
        box = _collect(errors, parse_box, annotation.get("bbox"), annotation.get("bbox_mode"))
        size = _collect(errors, parse_area, annotation["area"]) if area else None
        parsed = None
        if has_mask(annotation):
            parsed = _collect(errors, parse_instance_mask, annotation, image)
        elif self.use.masks and (self.use.evaluated or not crowd):
            errors.append(ProblemError(kinds.MASK_MISSING, "has no mask ('segmentation')"))
        for error in errors:
            self.report(error.kind, str(error), annotation, image, position)
        self.num_errors += len(errors)
        if errors:
            return False
        if box is not None and crowd is not None:
            is_usable = self._look_at(annotation, image, position, box, parsed, size)
            self._count(annotation, image, position, crowd, is_usable)
        return True

    def _look_at(
        self,
        annotation: Annotation,
        image: Image,
        position: int,
        box: Box,
        parsed: list[np.ndarray] | np.ndarray | None,
        area: float | None,
    ) -> bool:
        """Add what is no error; returns whether a training keeps the object."""
        place = annotation, image, position
        sides = image["height"], image["width"]
        shape = None if parsed is None else self._measure(parsed, *place)
        is_usable = min(box[2:]) > LEAST_SIZE
        if not is_usable:
            self.report(kinds.BOX_EMPTY, f"has the 'bbox' {shorten(list(box))}", *place)
        else:
            runs = parsed if isinstance(parsed, np.ndarray) else None
            compared = None if runs is not None and shape is not None and shape.is_empty else shape
            number = len(self._places)
            is_usable = self._suspicions.look_at(number, box, compared, runs, sides)
            if self._suspicions.num_found > number:
                self._places.append(place)
        if shape is None:
            return is_usable
        if shape.is_empty:
            self.report(kinds.MASK_EMPTY, "has a mask without a pixel", *place)
        elif area is not None:
            self._compare_area(area, shape, parsed, *place)
        return is_usable and not shape.is_empty

    def _measure(
        self,
        parsed: list[np.ndarray] | np.ndarray,
        annotation: Annotation,
        image: Image,
        position: int,
    ) -> MaskShape:
        if isinstance(parsed, list) and not all(map(is_area, parsed)):
            numbers = shorten([len(x) for x in parsed if not is_area(x)])
            text = f"has polygons of {numbers} numbers in its 'segmentation', beside others"
            self.report(kinds.POLYGON_POINTS, text, annotation, image, position)
        return measure(parsed, image["height"], image["width"])

    def _compare_area(
        self,
        area: float,
        shape: MaskShape,
        parsed: Any,
        annotation: Annotation,
        image: Image,
        position: int,
    ) -> None:
        # Tools count pixels or compute polygons' areas, which differ by half an outline.
        slack = shape.bounds[2] - shape.bounds[0] + shape.bounds[3] - shape.bounds[1]
        if abs(area - shape.area) <= _AREA_SHARE * shape.area + slack:
            return
        real = shape.area
        if not shape.is_exact:  # parts may overlap, or a polygon cross itself
            real = drawn_area(parsed, image["height"], image["width"])
        if abs(area - real) > _AREA_SHARE * real + slack:
            text = f"has the 'area' {shorten(annotation['area'])}, its mask has {real:.0f} pixels"
            self.report(kinds.AREA_DIFFERS, text, annotation, image, position)

    def _count(
        self, annotation: Annotation, image: Image, position: int, crowd: bool, is_usable: bool
    ) -> None:
        category_id, box = annotation["category_id"], annotation["bbox"]
        key = hash((id(image), crowd, str(category_id), *map(float, box)))
        first = self._first.setdefault(key, annotation)
        if first is not annotation and _is_same(first, annotation):
            text = f"is the object of annotation {shorten(first.get('id'))} once more"
            self.report(kinds.OBJECT_TWICE, text, annotation, image, position)
        if crowd:
            self.num_crowds += 1
            return
        self.num_instances += 1
        self.num_usable += is_usable
        self._per_image[id(image)] += 1
        self._images[id(image)] = image

    def finish(self, label: str, num_images: int, left_out: str = "", num_errors: int = 0) -> None:
        """Add what only all annotations together tell.

        Args:
            label: how messages call the data set.
            num_images: that it has.
            left_out: what is left out besides, for the message if nothing remains.
            num_errors: of annotations that `add` did not get.
        """
        for number, kind, text in self._suspicions.findings():
            self.report(kind, text, *self._places[number])
        is_clean = not num_errors and not self.num_errors
        if self.use.trained and num_images and is_clean and not self.num_usable:
            num = self.num_instances
            reasons = [left_out, f"{self.num_crowds} crowds" if self.num_crowds else ""]
            reasons.append(f"{num} without box or mask in the image" if num else "")
            said = ", ".join(filter(None, reasons)) or "no annotations"
            text = f"has {num_images} images, but none with an instance to train on ({said})"
            self.findings.add(kinds.NOTHING_TO_TRAIN, Finding(self.source, f"{label}{text}"))
        queries, detections = self.use.num_queries, self.use.detections
        if queries is not None:
            self._count_crowded(kinds.MORE_THAN_QUERIES, queries, "MODEL.QUERYINST.NUM_QUERIES")
        self._count_crowded(kinds.MORE_THAN_DETECTIONS, detections, "TEST.DETECTIONS_PER_IMAGE")

    def _count_crowded(self, kind: Kind, limit: int, key: str) -> None:
        for number, count in self._per_image.items():
            if count > limit:
                image = self._images[number]
                text = f"image {image['file_name']} has {count} objects, {key} is {limit}"
                image_id = image.get("id", image.get("image_id"))
                finding = Finding(self.source, text, image_id, None, str(image["file_name"]))
                self.findings.add(kind, finding)


def _collect(errors: list[ProblemError], rule: Any, *values: Any) -> Any:
    """What a rule returns; None if it finds a problem, which goes to `errors`."""
    try:
        return rule(*values)
    except ProblemError as error:
        errors.append(error)
        return None


def _is_same(first: Annotation, second: Annotation) -> bool:
    return repr(first.get("segmentation")) == repr(second.get("segmentation"))
