"""What a model finds in an image."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .drawing import draw
from .masks import Rle, bounds_of, decode_rle, encode_crop, paste_crop, place

_PER_OBJECT = (
    *("boxes", "scores", "classes", "query_idx"),
    *("mask_scores", "mask_boxes", "rles", "track_ids"),
)


@dataclass(eq=False, repr=False)
class Result:
    """The n objects of one image, by falling score. All arrays are NumPy's, on the CPU.

    Masks are kept as scores on a small grid, or as run-length codes, and pasted when they are asked
    for: `masks` of 100 objects in 48 megapixels would take 5 GB, `mask(i)` takes 48 MB.

    `result[i]`, `result[2:5]` and `result[result.scores > 0.5]` are Results of these objects.

    Attributes:
        image_size: height, width in pixels.
        boxes: (n, 4) float32, XYXY in pixels of the image, clipped to it.
        scores: (n,) float32.
        classes: (n,) int64, from 0.
        query_idx: (n,) int64, the query that each object comes from; -1 if it comes from several.
        class_names: of the model's classes; empty if they are not known.
        category_ids: of the model's classes, in the data set that it was trained on; empty if they
            are not known, and then class + 1.
        mask_scores: (n, S, S) after the sigmoid, each over its row of `mask_boxes`, or None.
        mask_boxes: (n, 4) as `boxes`, not clipped.
        rles: n run-length codes as in COCO's JSON, instead of the two before, or None.
        track_ids: (n,) int64, of objects in a video, or None.
        image: (H, W, 3) uint8 RGB, or the path of the file, that was predicted on.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    query_idx: np.ndarray
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    mask_scores: np.ndarray | None = None
    mask_boxes: np.ndarray | None = None
    rles: Sequence[Rle] | None = None
    track_ids: np.ndarray | None = None
    image: np.ndarray | str | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator["Result"]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> "Result":
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"object {index} of {len(self)}")
            index = [index]
        index = np.atleast_1d(np.arange(len(self))[index])
        values = {name: getattr(self, name) for name in _PER_OBJECT}
        chosen: dict[str, Any] = {
            name: value[index] if isinstance(value, np.ndarray) else [value[i] for i in index]
            for name, value in values.items()
            if value is not None
        }
        return replace(self, **chosen)

    def __repr__(self) -> str:
        height, width = self.image_size
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        return f"Result({found}; {width}x{height} pixels)"

    @property
    def names(self) -> list[str]:
        """The class name of each object; "class 7" where the model has no names."""
        return [
            self.class_names[c] if c < len(self.class_names) else f"class {c}"
            for c in self.classes.tolist()
        ]

    @property
    def has_masks(self) -> bool:
        return self.rles is not None or self.mask_scores is not None

    @property
    def masks(self) -> np.ndarray:
        """(n, H, W) bool, made anew at each call.

        Raises:
            ValueError: the model has no masks.
        """
        return place((self.crop(index) for index in range(len(self))), *self.image_size)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool of one object; errors as of `masks`."""
        return place([self.crop(index)], *self.image_size)[0]

    def crop(self, index: int) -> tuple[int, int, np.ndarray]:
        """Top, left, and (h, w) bool from there on, outside of which an object's mask is empty."""
        if self.rles is not None:
            mask = decode_rle(self.rles[index])
            top, left, bottom, right = bounds_of(mask)
            return top, left, mask[top:bottom, left:right]
        if self.mask_scores is None or self.mask_boxes is None:
            raise ValueError("the model has no masks, only boxes (MODEL.MASK_ON False)")
        return paste_crop(self.mask_scores[index], self.mask_boxes[index], *self.image_size)

    def rle(self, index: int) -> Rle:
        """One object's mask as COCO's run-length code."""
        if self.rles is not None:
            return self.rles[index]
        return encode_crop(*self.crop(index), *self.image_size)

    def to(self, device: Any) -> "Result":
        """Itself: results are on the CPU, whatever device the model is on.

        Raises:
            ValueError: another device is asked for.
        """
        if str(device) != "cpu":
            raise ValueError(f"results are NumPy arrays on the CPU, and stay there, not {device}")
        return self

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Entries of COCO's results JSON: boxes XYWH, `category_ids`, compressed run-length codes.

        `area` is the mask's, in pixels, or the box's if there are no masks.
        """
        entries = []
        for index, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            c = int(self.classes[index])
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": self.category_ids[c] if c < len(self.category_ids) else c + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[index]),
                "area": (x2 - x1) * (y2 - y1),
            }
            if self.has_masks:
                entry["segmentation"] = self.rle(index)
                entry["area"] = int(self.crop(index)[2].sum())
            entries.append(entry)
        return entries

    def to_polygons(self) -> list[list[np.ndarray]]:
        """The outlines of each object's parts: (k, 2) float32 x, y in pixels. Holes are filled.

        They run along the borders of pixels, as in COCO's JSON.

        Raises:
            ImportError: OpenCV is not installed.
        """
        from .polygons import contours_of

        return [contours_of(*self.crop(index)) for index in range(len(self))]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs the package supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=self.masks if self.has_masks else None,
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            tracker_id=self.track_ids,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, image: Any = None, *, enlarge: bool = True) -> Image.Image:
        """The image with masks, boxes, names and scores.

        Args:
            image: (H, W, 3) uint8 RGB, instead of the one that was predicted on.
            enlarge: small images, whose labels would hide what is in them.

        Raises:
            ValueError: there is no image, or it has another size.
        """
        return draw(self, self.image if image is None else image, enlarge)

    def save(self, path: str | os.PathLike, image: Any = None) -> None:
        """Write `draw`'s picture, or, if the path ends in .json, what `to_coco` gives.

        Raises:
            ValueError: Pillow writes no file of this suffix; or as `draw`.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(self.to_coco()))
            return
        picture = self.draw(image)
        try:
            picture.save(path, quality=95)  # of JPEG and WebP
        except ValueError as error:
            raise ValueError(f"cannot write a picture to {path}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
