"""COCO's AP by the fastest implementation that is installed; all give the same digits."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator, coco_evaluation

logger = logging.getLogger(__name__)

_FASTER = "faster-coco-eval"
_FASTER_SINCE = (1, 8)  # older ones were not compared


class TimedCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, by faster-coco-eval where installed, with the time in the log."""

    def __init__(self, dataset_name: str, *args, **kwargs):
        """As COCOEvaluator's."""
        with _using(find_implementation()):  # which looks whether there is a fast one
            super().__init__(dataset_name, *args, **kwargs)
        self._dataset_name = dataset_name

    def evaluate(self, img_ids=None):
        """As COCOEvaluator's."""
        implementation = find_implementation()
        start = time.perf_counter()
        with _using(implementation):
            results = super().evaluate(img_ids)
        if results:  # that of the main process
            seconds = time.perf_counter() - start
            name = describe(implementation)
            logger.info(f"AP of {self._dataset_name!r} by {name} in {seconds:.1f} s")
        return results


def find_implementation() -> type:
    """faster-coco-eval's, else what Detectron2 has: its compiled one, else pycocotools' own."""
    try:
        if _numbers(version(_FASTER)) >= _FASTER_SINCE:
            from faster_coco_eval import COCOeval_faster

            return COCOeval_faster
    except (PackageNotFoundError, ImportError):
        pass
    return coco_evaluation.COCOeval_opt


def describe(implementation: type) -> str:
    """The package behind an implementation, with its version where it has one of its own."""
    if implementation is pycocotools.cocoeval.COCOeval:
        return f"pycocotools {version('pycocotools')}"
    if implementation.__module__.startswith("faster_coco_eval"):
        return f"{_FASTER} {version(_FASTER)}"
    return f"Detectron2's {implementation.__name__}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


@contextmanager
def _using(implementation: type) -> Iterator[None]:
    """Detectron2 looks its implementation up by this name, when it is about to use it."""
    before = coco_evaluation.COCOeval_opt
    coco_evaluation.COCOeval_opt = implementation
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt = before
