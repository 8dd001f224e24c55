"""Video files: frames in, frames out."""

import os
from collections.abc import Iterator

import cv2
import numpy as np

from .files import is_file_name, make_folder

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".m4v", ".webm")
_DEFAULT_FPS = 25.0  # for files and cameras that do not say


class FrameReader:
    """The frames of a video file or a camera."""

    def __init__(self, source: str | int):
        """
        Args:
            source: a file, or a camera's number.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be opened as a video.
        """
        if isinstance(source, str) and not os.path.isfile(source):
            raise FileNotFoundError(f"--video-input {source} is not a file")
        self._source = source
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            if isinstance(source, int):
                raise ValueError(f"--webcam: camera {source} cannot be opened")
            raise ValueError(f"--video-input {source} is no video that OpenCV can read")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else _DEFAULT_FPS
        self.num_frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)  # 0: unknown

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
            raise ValueError(f"{self._source} holds no frame that OpenCV can read")


def plan_video(source: str, output: str) -> str:
    """The file that the drawn video goes to; makes its folder.

    Raises:
        ValueError: it would replace its input.
        OSError: the folder cannot be made or written to.
    """
    path = output
    if not is_file_name(output, VIDEO_SUFFIXES):
        stem = os.path.splitext(os.path.basename(source))[0]
        path = os.path.join(output, f"{stem}.mp4")
    if os.path.realpath(path) == os.path.realpath(source):
        raise ValueError(f"--output would replace the input {path}; name another file")
    make_folder(os.path.dirname(path))
    return path


def open_writer(path: str, fps: float, width: int, height: int) -> cv2.VideoWriter:
    """A new video file: Motion-JPEG in .avi, VP8 in .webm, MPEG-4 in all others.

    Raises:
        OSError: this OpenCV cannot write it.
    """
    codec = {".avi": "MJPG", ".webm": "VP80"}.get(os.path.splitext(path)[1].lower(), "mp4v")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    if not writer.isOpened():
        raise OSError(f"--output {path}: this OpenCV cannot write {codec} there; try an .avi file")
    return writer
