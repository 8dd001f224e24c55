"""Video files: what is written."""

import os

import cv2

from ..predict.inputs import VIDEO_SUFFIXES
from .files import is_file_name, make_folder


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
