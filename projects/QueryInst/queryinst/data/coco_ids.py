"""Ids of any kind as small numbers, for what keeps ids in arrays.

pycocotools, and what computes its figures faster, sort image ids by `numpy.unique`, which changes
texts and makes neighbours among large integers one, and take a match with an annotation of id 0 for
none.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

from pycocotools.coco import COCO


def number_ids(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Any, int]]:
    """The same in COCO's format, its images and annotations numbered from 1, by rising ids.

    Args:
        content: with "images"; annotations of other images are left out.

    Returns:
        The content, and the images' numbers by their ids. Both share their lists of other things
        with `content`, which stays as it is.
    """
    images = content["images"]
    numbers = {id_: n for n, id_ in enumerate(sorted({x["id"] for x in images}), start=1)}
    numbered = {**content, "images": [{**x, "id": numbers[x["id"]]} for x in images]}
    if "annotations" in content:
        known = [x for x in content["annotations"] if x["image_id"] in numbers]
        # In the order of the file; COCO 2014's minival has an id twice, and so has its number.
        own = {id_: n for n, id_ in enumerate(dict.fromkeys(x["id"] for x in known), start=1)}
        numbered["annotations"] = [
            {**x, "id": own[x["id"]], "image_id": numbers[x["image_id"]]} for x in known
        ]
    return numbered, numbers


class NumberedCOCO(COCO):
    """A data set with the ids of `number_ids`, which takes results with its own ids."""

    def __init__(self, coco: COCO, label: str):
        """
        Args:
            coco: what to number; it stays as it is.
            label: how messages name it.
        """
        super().__init__()
        self._label = label
        self.dataset, self._numbers = number_ids(coco.dataset)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            self.createIndex()

    def numbers_of(self, image_ids: Iterable[Any]) -> list[int]:
        """The numbers of images.

        Raises:
            ValueError: the data set has no such image.
        """
        image_ids = list(image_ids)
        if unknown := [id_ for id_ in image_ids if id_ not in self._numbers]:
            raise ValueError(
                f"{self._label} has no image {unknown[0]!r}, which predictions are of; evaluate on"
                " the data set that was predicted"
            )
        return [self._numbers[id_] for id_ in image_ids]

    def loadRes(self, results: list[dict[str, Any]]) -> COCO:
        """As COCO's, of results with the ids of the data set before it was numbered.

        Raises:
            ValueError: as `numbers_of`.
        """
        numbers = self.numbers_of(result["image_id"] for result in results)
        return super().loadRes([{**r, "image_id": n} for r, n in zip(results, numbers)])
