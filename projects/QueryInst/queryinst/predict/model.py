"""Model: what `queryinst.load` gives, whatever runs it."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from queryinst_runtime.images import as_rgb
from queryinst_runtime.results import Result

from ..yaml_files import is_remote
from .inputs import read_rgb
from .slicing import Detect, check_slices, detect_sliced


class Backend(Protocol):
    """What runs a model: PyTorch, or an exported file.

    Attributes:
        class_names: of the model's classes; empty if they are not known.
        category_ids: of the classes in the data set that the model was trained on; or empty.
        max_pixels: of an image file, height x width.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    max_pixels: int

    def detect(self, images: list[np.ndarray], score: float) -> list[Result]:
        """Predict on a batch.

        Args:
            images: at least one; each (H, W, 3) uint8, RGB, of its own size.
            score: objects that do not exceed it are left out.

        Returns:
            A Result for each image, in its own pixels, without `image`.
        """
        ...


@runtime_checkable
class AugmentingBackend(Protocol):
    """A backend that has test-time augmentation as well.

    Attributes:
        tta: whether it is used where nobody says.
    """

    tta: bool

    def detect_with_tta(self, images: list[np.ndarray], score: float) -> list[Result]:
        """As `Backend.detect`."""
        ...


class Model:
    """A function of images. It may be called from several threads.

    `model(image)` is a Result, `model([image, ...])` a list of Results, which may be empty. An
    image is a path, an http(s) address, of PIL, a uint8 array (H, W, 3) or (H, W), or a uint8
    tensor (3, H, W); arrays and tensors are RGB unless `channels="BGR"`.
    """

    def __init__(self, backend: Backend, score: float = 0.0):
        """
        Args:
            score: as of `predict`, where that has none.

        Raises:
            ValueError: `score` is not in [0, 1].
        """
        self.backend = backend
        self.score = _checked_score(score)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Empty if they are not known."""
        return self.backend.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Of the classes in the data set that the model was trained on; or empty."""
        return self.backend.category_ids

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend!r}, score={self.score})"

    def __call__(self, images: Any, **options: Any) -> Any:
        """As `predict`."""
        return self.predict(images, **options)

    def predict(
        self,
        images: Any,
        *,
        score: float | None = None,
        channels: str = "RGB",
        batch: int = 1,
        slice: int | None = None,
        overlap: float = 0.2,
        tta: bool | None = None,
    ) -> Any:
        """Predict on an image, or on several.

        Args:
            images: an image, or a list or tuple, or another iterable, of images.
            score: objects that do not exceed it are left out; None for the model's own.
            channels: "RGB" or "BGR", of arrays and tensors.
            batch: images that the model sees at once, padded to the largest of them. More take more
                memory, and pay on a GPU. With `slice`, tiles.
            slice: sides, in pixels of the image, of tiles that are predicted beside the whole
                image, as `slicing.detect_sliced`; for large images with small objects.
            overlap: of two neighbouring tiles, as a part of their sides.
            tta: test-time augmentation, by the keys TEST.AUG; None for TEST.AUG.ENABLED.

        Returns:
            A Result, or a list of them in the order of the images.

        Raises:
            ValueError: an image is none of these, or an option is invalid. One line.
            OSError: a file cannot be read.
        """
        score = self.score if score is None else _checked_score(score)
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
            raise ValueError(f"batch {batch!r} must be a whole number of at least 1")
        detect = partial(self._chosen(tta), score=score)
        if slice is not None:
            check_slices(slice, overlap)
            detect = partial(_detect_each, detect, size=slice, overlap=overlap, batch=batch)
        read = partial(read_rgb, max_pixels=self.backend.max_pixels)
        prepare = partial(as_rgb, channels=channels, read=read)
        if not is_several(images):
            return _detect(detect, [images], [prepare(images)])[0]
        results: list[Result] = []
        given = list(images)
        for start in range(0, len(given), batch):
            part = given[start : start + batch]
            results += _detect(detect, part, [prepare(image) for image in part])
        return results

    def _chosen(self, tta: bool | None) -> Callable[..., list[Result]]:
        """The backend's function for test-time augmentation, or for none."""
        backend = self.backend
        if isinstance(backend, AugmentingBackend):
            use_it = backend.tta if tta is None else tta
            return backend.detect_with_tta if use_it else backend.detect
        if tta:
            raise ValueError(
                f"{backend!r} has no test-time augmentation, which needs a model that PyTorch runs;"
                " leave tta out, or load the checkpoint"
            )
        return backend.detect


def _detect(detect: Detect, given: Sequence[Any], images: list[np.ndarray]) -> list[Result]:
    results = detect(images)
    for result, image, pixels in zip(results, given, images):
        # A path is read again when it is drawn: a list of results need not hold all pixels.
        is_file = _is_path(image) and not is_remote(os.fspath(image))
        result.image = os.fspath(image) if is_file else pixels
    return results


def _detect_each(detect: Detect, images: list[np.ndarray], **slices: Any) -> list[Result]:
    return [detect_sliced(detect, image, **slices) for image in images]


def is_several(images: Any) -> bool:
    """Whether it is not one image but a list, or another iterable, of images."""
    if isinstance(images, (list, tuple)):
        return True
    is_image = _is_path(images) or hasattr(images, "shape") or hasattr(images, "mode")
    return isinstance(images, Iterable) and not is_image


def _is_path(image: Any) -> bool:
    return isinstance(image, str) or hasattr(image, "__fspath__")


def _checked_score(score: Any) -> float:
    is_number = isinstance(score, (int, float, np.number)) and not isinstance(score, bool)
    if not is_number or not 0 <= score <= 1:
        raise ValueError(f"score {score!r} must be a number in [0, 1]")
    return float(score)
