"""Resizing images and masks as Detectron2 does, and as MMDetection's default pipeline does."""

import numpy as np
from detectron2.data import transforms as T

try:
    import cv2
except ImportError:  # Pillow is enough for everything else
    cv2 = None  # type: ignore[assignment]


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but no side becomes less than 1 pixel: that of a sliver is rounded to 0."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of one image (H, W) or (H, W, C); none if the short side drawn is 0."""
        resize = super().get_transform(image)
        if not isinstance(resize, T.ResizeTransform):
            return resize
        size = max(resize.new_h, 1), max(resize.new_w, 1)
        return T.ResizeTransform(resize.h, resize.w, *size, resize.interp)


class OpenCVResizeTransform(T.ResizeTransform):
    """Detectron2's ``ResizeTransform`` with the pixels of ``cv2.resize``.

    Images are interpolated bilinearly and, unlike Pillow's, not antialiased if they shrink.
    Masks use the pixel at ``floor(x * width / new_width)``, Pillow the one at the centre,
    ``floor((x + 0.5) * width / new_width)``. Coordinates are scaled by the ratios of the sides.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        """
        Args:
            h, w: size of the image in pixels.
            new_h, new_w: its size afterwards.
            interp: OpenCV's interpolation for images, ``cv2.INTER_LINEAR`` if it is None.

        Raises:
            ImportError: OpenCV is not installed.
        """
        check_opencv()
        super().__init__(h, w, new_h, new_w, cv2.INTER_LINEAR if interp is None else interp)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (h, w) or (h, w, C) to (new_h, new_w[, C]) of the same dtype.

        Args:
            img: uint8 or floating point.
            interp: OpenCV's interpolation, the transform's own if it is None.
        """
        assert img.shape[:2] == (self.h, self.w) and img.ndim <= 3
        method = self.interp if interp is None else interp
        # OpenCV does not support negative strides, as of BGR viewed as RGB.
        resized = cv2.resize(
            np.ascontiguousarray(img), (self.new_w, self.new_h), interpolation=method
        )
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:])  # OpenCV removes a C of 1

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize masks (h, w), bool or integer, to the nearest pixel in OpenCV's sense."""
        if segmentation.dtype == bool:  # OpenCV has no such type
            return self.apply_segmentation(segmentation.view(np.uint8)).view(bool)
        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def inverse(self) -> "OpenCVResizeTransform":
        """The resize back to the first size; detail stays lost."""
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class OpenCVResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge`` with MMDetection's output size and OpenCV's pixels.

    The short side is drawn as Detectron2 does: equal seeds give equal sizes with both.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of one image (H, W) or (H, W, C); none if the short side drawn is 0."""
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        return OpenCVResizeTransform(
            height, width, *self.get_output_shape(height, width, int(size), self.max_size)
        )

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """(height, width) as mmcv's ``rescale_size`` computes them, but at least 1 each.

        Detectron2 scales a second time if the long side is too long, and so rounds differently.
        mmcv computes 0 for the short side of a sliver, and then fails.
        """
        scale = min(max_size / max(oldh, oldw), short_edge_length / min(oldh, oldw))
        return max(int(oldh * scale + 0.5), 1), max(int(oldw * scale + 0.5), 1)


def check_opencv() -> None:
    """Raise ImportError, with one line, if OpenCV is not installed."""
    if cv2 is None:
        raise ImportError(
            "INPUT.RESIZE_WITH 'OPENCV' needs OpenCV, and cv2 is not installed: install "
            "opencv-python-headless, or set INPUT.RESIZE_WITH PIL"
        )
