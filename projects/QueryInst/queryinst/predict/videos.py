"""The frames of video files and cameras, by OpenCV."""

import os
from collections.abc import Iterator

import cv2
import numpy as np

_DEFAULT_FPS = 25.0  # for files and cameras that do not say


class FrameReader:
    """The frames of a video file or a camera.

    Attributes:
        fps: frames per second.
        num_frames: 0 if the file does not say; it may be wrong.
    """

    def __init__(self, source: str | int, label: str = ""):
        """
        Args:
            source: a file, or a camera's number.
            label: how messages name it; "" for the path.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be opened as a video.
        """
        self._label = label or (f"camera {source}" if isinstance(source, int) else source)
        if isinstance(source, str) and not os.path.isfile(source):
            raise FileNotFoundError(f"{self._label} is not a file")
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            if isinstance(source, int):
                raise ValueError(f"{self._label} cannot be opened")
            raise ValueError(f"{self._label} is no video that OpenCV can read")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else _DEFAULT_FPS
        self.num_frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8, BGR.

        Raises:
            ValueError: there is not a single one.
        """
        is_empty = True
        try:
            while True:
                success, frame = self._capture.read()
                if not success:
                    break
                is_empty = False
                yield frame
        finally:
            self._capture.release()
        if is_empty:
            raise ValueError(f"{self._label} holds no frame that OpenCV can read")
