"""Where the demo's frames come from, and which file they go to."""

import os
from collections.abc import Iterator

import cv2
import numpy as np

from ..data.video_reading import Frame
from ..data.video_writing import VIDEO_SUFFIXES
from ..predict.naming import make_folder
from .files import is_file_name


class Camera:
    """The frames of a camera, RGB, without a time."""

    rate = 25.0  # a guess
    num_frames = 0  # not known

    def __init__(self, number: int):
        """
        Raises:
            ValueError: it cannot be opened.
        """
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise ValueError(f"--webcam: camera {number} cannot be opened")

    def __iter__(self) -> Iterator[Frame]:
        try:
            while True:
                success, frame = self._capture.read()
                if not success:
                    return
                yield Frame(np.ascontiguousarray(frame[:, :, ::-1]), None)
        finally:
            self._capture.release()


def plan_video(source: str, output: str) -> str:
    """The file that the drawn video goes to; makes its folder.

    `output` is a folder unless it has one of `VIDEO_SUFFIXES`.

    Raises:
        ValueError: it would replace its input, or is a file of another kind.
        OSError: the folder cannot be made or written to.
    """
    path = output
    if not is_file_name(output, VIDEO_SUFFIXES):
        if os.path.splitext(output)[1] and not os.path.isdir(output):
            raise ValueError(
                f"--output {output}: a video is written as {', '.join(VIDEO_SUFFIXES)}; name one of"
                " these, or a folder"
            )
        stem = os.path.splitext(os.path.basename(source))[0]
        path = os.path.join(output, f"{stem}.mp4")
    if os.path.realpath(path) == os.path.realpath(source):
        raise ValueError(f"--output would replace the input {path}; name another file")
    make_folder(os.path.dirname(path))
    return path
