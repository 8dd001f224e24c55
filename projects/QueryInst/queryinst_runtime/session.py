"""Predicting with an exported file, by ONNX Runtime."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .description import METADATA_KEY, Description, read_description
from .frames import to_result
from .images import MAX_PIXELS, as_rgb, read_rgb
from .resizing import network_size, resize, to_batch
from .results import Result

INPUTS = ("images", "image_sizes")
_DEFAULT = ("CUDAExecutionProvider", "CPUExecutionProvider")
OUTPUTS = ("boxes", "scores", "classes", "query_idx", "masks")


class Session:
    """A function of images, as `queryinst.load` gives. It may be called from several threads.

    Attributes:
        description: what the file says of itself.
        class_names: of the model's classes; empty if they are not known.
        category_ids: of the classes in the data set that the model was trained on; or empty.
        max_pixels: of an image file, height x width.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        providers: Sequence[str] | None = None,
        num_threads: int = 0,
        max_pixels: int = MAX_PIXELS,
    ):
        """
        Args:
            path: an ONNX file of ``queryinst export``.
            providers: of ONNX Runtime, such as "CUDAExecutionProvider"; None for CUDA's where it is
                there, then the CPU's.
            num_threads: of one operator; 0 for one per core.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no ONNX file, or not from ``queryinst export``. One line.
            ImportError: ONNX Runtime is not installed.
        """
        self.path = os.fspath(path)
        self.max_pixels = max_pixels
        self.description = self._open(list(providers or ()), num_threads)
        self.class_names = self.description.thing_classes
        self.category_ids = self.description.category_ids

    def __repr__(self) -> str:
        return f"{self.path!r}, {self.description.precision}"

    def __call__(
        self, images: Any, *, score: float = 0.0, channels: str = "RGB", batch: int = 1
    ) -> Any:
        """Predict on an image, or on a list or tuple of images.

        Args:
            images: each a path, of PIL, or a uint8 array (H, W, 3) or (H, W).
            score: objects that do not exceed it are left out.
            channels: "RGB" or "BGR", of arrays.
            batch: images that the network sees at once; more take more memory.

        Returns:
            A Result, or a list of them in the order of the images.

        Raises:
            ValueError: an image is none of these, or an option is invalid. One line.
            OSError: a file cannot be read.
        """
        if not isinstance(score, (int, float, np.number)) or not 0 <= score <= 1:
            raise ValueError(f"score {score!r} must be a number in [0, 1]")
        if not isinstance(batch, (int, np.integer)) or batch < 1:
            raise ValueError(f"batch {batch!r} must be a whole number of at least 1")
        if not isinstance(images, (list, tuple)):
            return self([images], score=score, channels=channels)[0]
        results: list[Result] = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            pixels = [as_rgb(image, channels, self._read) for image in part]
            for image, result in zip(pixels, self.detect(pixels, score)):
                result.image = image
                results.append(result)
        return results

    def _read(self, path: Any) -> np.ndarray:
        return read_rgb(path, self.max_pixels)

    def detect(self, images: list[np.ndarray], score: float) -> list[Result]:
        """Predict on a batch.

        Args:
            images: at least one; each (H, W, 3) uint8, RGB, of its own size.
            score: objects that do not exceed it are left out.

        Returns:
            A Result for each image, in its own pixels, without `image`.

        Raises:
            ValueError: boxes or scores are not numbers.
        """
        about = self.description
        sizes = [network_size(image.shape[0], image.shape[1], about) for image in images]
        resized = [resize(image, size, about.resize_with) for image, size in zip(images, sizes)]
        outputs = self.run(*to_batch(resized, about))
        if any(np.isnan(values).any() for values in outputs[:2]):
            raise ValueError(f"{self.path} computes boxes or scores that are not numbers (NaN)")
        results = []
        for image, size, *values in zip(images, sizes, *outputs):
            named = dict(zip(OUTPUTS, values))
            keep = named["scores"] > np.float32(score)
            chosen = {name: value[keep] for name, value in named.items()}
            names = self.class_names, self.category_ids
            results.append(to_result(chosen, size, image.shape[:2], *names))
        return results

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        """Run the network alone.

        Args:
            images: (N, 3, H, W) float32, normalized and padded, as of `resizing.to_batch`.
            image_sizes: (N, 2) int64, height and width without the padding.

        Returns:
            boxes (N, k, 4) XYXY in pixels of the resized images, scores (N, k), classes (N, k),
            query_idx (N, k), and mask scores (N, k, S, S) unless it is a box detector.
        """
        return self._session.run(None, dict(zip(INPUTS, (images, image_sizes))))

    def _open(self, providers: list[str], num_threads: int) -> Description:
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(f"{self.path} needs ONNX Runtime: pip install onnxruntime") from None
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        available = onnxruntime.get_available_providers()
        if missing := [name for name in providers if name not in available]:
            raise ValueError(f"ONNX Runtime has no {missing[0]} here, only {', '.join(available)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                self.path, options, providers=providers or [x for x in _DEFAULT if x in available]
            )
        except Exception as error:  # its classes are of no common base
            detail = " ".join(str(error).split())[:300]
            raise ValueError(f"ONNX Runtime cannot open {self.path}: {detail}") from None
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return read_description(text, self.path)
