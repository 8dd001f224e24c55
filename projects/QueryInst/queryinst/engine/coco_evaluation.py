"""COCO's AP by the fastest installed implementation; all give the same digits."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.utils import comm

from ..data import instance_checks as data_checks
from ..data.mask_bounds import to_rle

logger = logging.getLogger(__name__)

_FASTER = "faster-coco-eval"
_FASTER_SINCE = (1, 8)  # nobody compared older ones


class TimedCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, by faster-coco-eval if installed. Logs the time."""

    def __init__(self, dataset_name: str, *args, **kwargs):
        """As COCOEvaluator's."""
        with _using(find_implementation()):  # the base class looks for a fast one
            super().__init__(dataset_name, *args, **kwargs)
        self._dataset_name = dataset_name

    def evaluate(self, img_ids=None):
        """As COCOEvaluator's.

        Raises:
            ValueError: a mask of the ground truth is malformed.
        """
        implementation = find_implementation()
        start = time.perf_counter()
        if comm.is_main_process() and "segm" in (self._tasks or ()):
            self._draw_ground_truth()
        with _using(implementation):
            results = super().evaluate(img_ids)
        if results:  # on the main process
            seconds = time.perf_counter() - start
            name = describe(implementation)
            logger.info(f"AP of {self._dataset_name!r} by {name} in {seconds:.1f} s")
        return results

    def _draw_ground_truth(self) -> None:
        """Turn its masks into RLE, as pycocotools would, which does not check them."""
        for annotation in self._coco_api.dataset.get("annotations", ()):
            image = self._coco_api.imgs.get(annotation["image_id"])
            if image is None or annotation.get("segmentation") is None:
                continue
            label = f"data set {self._dataset_name!r}: {data_checks.describe(annotation, image)}"
            annotation["segmentation"] = to_rle(
                annotation["segmentation"], image["height"], image["width"], label
            )


def find_implementation() -> type:
    """faster-coco-eval's, else Detectron2's: its compiled one, else pycocotools'."""
    try:
        if _numbers(version(_FASTER)) >= _FASTER_SINCE:
            from faster_coco_eval import COCOeval_faster

            return COCOeval_faster
    except (PackageNotFoundError, ImportError):
        pass
    return coco_evaluation.COCOeval_opt


def describe(implementation: type) -> str:
    """The package of an implementation, with its version if it has one of its own."""
    if implementation is pycocotools.cocoeval.COCOeval:
        return f"pycocotools {version('pycocotools')}"
    if implementation.__module__.startswith("faster_coco_eval"):
        return f"{_FASTER} {version(_FASTER)}"
    return f"Detectron2's {implementation.__name__}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


@contextmanager
def _using(implementation: type) -> Iterator[None]:
    """Replace the implementation that Detectron2 looks up by this name on each use."""
    before = coco_evaluation.COCOeval_opt
    coco_evaluation.COCOeval_opt = implementation
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt = before
