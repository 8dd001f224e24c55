"""COCO's AP by the fastest installed implementation; all give the same digits."""

import io
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version

import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from ..data import instance_checks as data_checks
from ..data.coco_ids import NumberedCOCO
from ..data.mask_bounds import to_rle

logger = logging.getLogger(__name__)

_FASTER = "faster-coco-eval"
_FASTER_SINCE = (1, 8)  # nobody compared older ones
_USUAL_LIMIT = 100  # detections of a class and image that COCO's AP counts


class TimedCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator, by faster-coco-eval if installed. Logs the time.

    Ids of images and annotations may be any numbers or texts. Files keep them as they are.
    """

    def __init__(
        self,
        dataset_name: str,
        *args,
        max_detections: int = _USUAL_LIMIT,
        num_queries: int = 0,
        **kwargs,
    ):
        """As COCOEvaluator's, with another default for `max_dets_per_image`.

        Args:
            max_detections: of an image that the model returns at most. AP counts COCO's 100 of
                each class, or as many as this if it is more.
            num_queries: how many objects of an image the model can find; 0 for no limit. It warns
                where images have more, and more than 100.
        """
        if max_detections > _USUAL_LIMIT:
            kwargs.setdefault("max_dets_per_image", max_detections)
        with _using(find_implementation()):  # the base class looks for a fast one
            super().__init__(dataset_name, *args, **kwargs)
        self._dataset_name = dataset_name
        if comm.is_main_process():
            most = max(num_queries, _USUAL_LIMIT) if num_queries else max_detections
            self._warn_of_many_objects(min(max_detections, most))

    def evaluate(self, img_ids=None):
        """As COCOEvaluator's.

        Raises:
            ValueError: a mask of the ground truth is malformed.
        """
        implementation = find_implementation()
        start = time.perf_counter()
        if comm.is_main_process() and "segm" in (self._tasks or ()):
            self._draw_ground_truth()
        with _using(implementation), redirect_stdout(io.StringIO()):  # it prints what it does
            results = super().evaluate(img_ids)
        if results:  # on the main process
            seconds = time.perf_counter() - start
            name, limit = describe(implementation), self._max_dets_per_image[-1]
            more = f", of up to {limit} detections an image" if limit != _USUAL_LIMIT else ""
            logger.info(f"AP of {self._dataset_name!r} by {name} in {seconds:.1f} s{more}")
        return results

    def _eval_predictions(self, predictions, img_ids=None):
        """As COCOEvaluator's, with numbers for ids.

        Raises:
            ValueError: as `NumberedCOCO.numbers_of`.
        """
        original = self._coco_api
        self._coco_api = numbered = NumberedCOCO(original, f"data set {self._dataset_name!r}")
        try:
            img_ids = img_ids if img_ids is None else numbered.numbers_of(img_ids)
            super()._eval_predictions(predictions, img_ids)
        finally:
            self._coco_api = original

    def _warn_of_many_objects(self, limit: int) -> None:
        objects = self._coco_api.dataset.get("annotations", ())
        counts = Counter(x["image_id"] for x in objects if not x.get("iscrowd", 0))
        crowded = [count for count in counts.values() if count > limit]
        if crowded:
            log_first_n(
                logging.WARNING,
                f"{len(crowded)} images of {self._dataset_name!r} have more than {limit} objects, "
                f"up to {max(crowded)}: AP cannot reach 100 unless TEST.DETECTIONS_PER_IMAGE and "
                "MODEL.QUERYINST.NUM_QUERIES (which training fixes) are as high",
                name=__name__,
                key="message",
            )

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
    """Replace the implementations that Detectron2 looks up by name on each use.

    It has its own summary, and pycocotools' slow code, for other limits than 100 detections.
    """
    before = coco_evaluation.COCOeval_opt, coco_evaluation.COCOevalMaxDets
    summary = {"summarize": coco_evaluation.COCOevalMaxDets.summarize}
    coco_evaluation.COCOeval_opt = implementation
    coco_evaluation.COCOevalMaxDets = type("COCOevalMaxDets", (implementation,), summary)
    try:
        yield
    finally:
        coco_evaluation.COCOeval_opt, coco_evaluation.COCOevalMaxDets = before
