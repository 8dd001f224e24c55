"""Results of a video, frame by frame."""

import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from queryinst_runtime.results import Result

from ..data.video_reading import Frame, VideoReader
from ..data.video_writing import VideoWriter
from .tracking import Tracker


class FrameResult(NamedTuple):
    """What is found in a frame.

    Attributes:
        number: of the frame, from 0.
        time: seconds since the first frame, or None, as of the `Frame`.
        result: with the frame as its `image`, and `track_ids` where objects are tracked.
    """

    number: int
    time: Fraction | None
    result: Result


def predict_video(
    predict: Callable[[list[np.ndarray]], list[Result]],
    frames: str | os.PathLike[str] | Iterable[Frame],
    *,
    track: bool = False,
    batch: int = 1,
) -> Iterator[FrameResult]:
    """Predict on a video, holding `batch` frames at a time.

    with VideoReader("clip.mp4") as video, VideoWriter("drawn.mp4", video.rate) as writer:
        for frame in predict_video(partial(model, score=0.5), video, track=True):
            draw_frame(writer, frame)

    Args:
        predict: a `Model`, or `functools.partial(model, ...)` with options of `Model.predict`.
        frames: a file, a `VideoReader`, or other frames in their order.
        track: whether results get `track_ids`.
        batch: frames that `predict` is given at once.

    Raises:
        FileNotFoundError, ValueError: as of `VideoReader` and `predict`.
    """
    if isinstance(frames, (str, os.PathLike)):
        frames = VideoReader(frames)
    tracker = Tracker() if track else None
    rest, number = iter(frames), 0
    while part := list(islice(rest, batch)):
        for frame, result in zip(part, predict([frame.pixels for frame in part])):
            if tracker is not None:
                result = tracker.track(result)
            yield FrameResult(number, frame.time, result)
            number += 1


def draw_frame(writer: VideoWriter, frame: FrameResult, image: Any = None) -> None:
    """Append a drawn frame, of its own size, to a video.

    Raises:
        ValueError, OSError: as of `Result.draw` and `VideoWriter.write`.
    """
    drawn = frame.result.draw(image, enlarge=False)
    writer.write(np.asarray(drawn), frame.time)
