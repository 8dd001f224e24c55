"""The frames of a video file, upright, one at a time."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..config import MAX_PIXELS

try:
    import av
except ImportError:  # the extra "video"; OpenCV reads what it can
    av = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_DEFAULT_RATE = Fraction(25)  # of files and cameras that do not say
_MAX_RATE = 1000
_COMPLETE = 0.95  # of the frames that a header counts; edit lists hide some


class Frame(NamedTuple):
    pixels: np.ndarray  # (H, W, 3) uint8, RGB
    time: Fraction | None  # seconds since the first frame; None of a camera


class _Source(Protocol):
    rate: Any
    num_frames: int
    size: tuple[int, int]
    num_damaged: int

    def frames(self) -> Iterator[tuple[np.ndarray, Fraction | None]]: ...

    def close(self) -> None: ...


class VideoReader:
    """An iterable of a video file's `Frame`s, through PyAV, or else OpenCV; one is held at a time.

    What is damaged is left out, and a file that is cut short ends there, with a warning each.

    Attributes:
        rate: frames per second; 25, with a warning, if the file does not say.
        num_frames: as the file says; 0 if it does not.
    """

    def __init__(self, path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS):
        """
        Args:
            max_pixels: of a frame, height x width.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a video that can be read, or its frames are too large.
        """
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"{self.path} is not a file")
        self._source: _Source = _OpenCVSource(self.path) if av is None else _AVSource(self.path)
        width, height = self._source.size
        if width * height > max_pixels:
            self.close()
            raise ValueError(
                f"video {self.path} has frames of {width} x {height} = {width * height} pixels,"
                f" INPUT.MAX_PIXELS is {max_pixels}; raise it, or use a smaller video"
            )
        self.rate = checked_rate(self._source.rate, self.path)
        self.num_frames = self._source.num_frames

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[Frame]:
        """Once; the file is closed behind the last frame.

        Raises:
            ValueError: there is not a single frame that can be read.
        """
        count, first, last = 0, None, Fraction(0)
        try:
            for pixels, time in self._source.frames():
                if first is None:
                    first = time or Fraction(0)
                time = last + 1 / self.rate if time is None else time - first
                last = max(time, last + 1 / self.rate / 100) if count else Fraction(0)
                count += 1
                yield Frame(pixels, last)
        finally:
            self.close()
        if not count:
            raise ValueError(f"video {self.path} holds no frame that can be read")
        if self._source.num_damaged or count < _COMPLETE * self.num_frames:
            expected = f" of {self.num_frames}" if self.num_frames >= count else ""
            logger.warning(
                "video %s is cut short or damaged: %d%s frames could be read",
                *(self.path, count, expected),
            )


def checked_rate(rate: Any, name: str) -> Fraction:
    """Frames per second as a fraction, such as 30000/1001 for 29.97; 25 where it makes no sense."""
    if rate is None or not 0 < rate <= _MAX_RATE:  # which NaN is not
        logger.warning("video %s does not say its frame rate: taken as %s", name, _DEFAULT_RATE)
        return _DEFAULT_RATE
    if isinstance(rate, Fraction):
        return rate
    nearest = Fraction(round(rate * 1001 / 1000) * 1000, 1001)  # NTSC's 23.976, 29.97, 59.94
    if nearest and abs(nearest - Fraction(rate)) < Fraction(1, 1000):
        return nearest
    return Fraction(rate).limit_denominator(1001)


class _AVSource:
    def __init__(self, path: str):
        try:
            self._container = av.open(path)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path} is no video that can be read ({_reason(error)})") from error
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            self._container.close()
            raise ValueError(f"{path} holds no video that can be read")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate
        self.num_frames = self._stream.frames or self._estimate()
        self.size = self._stream.width, self._stream.height
        self.num_damaged = 0

    def _estimate(self) -> int:
        """Frames by the duration, which in .mkv and .webm is that of the longest stream."""
        duration = self._container.duration
        if not duration or not self.rate or len(self._container.streams) > 1:
            return 0
        return round(Fraction(duration, av.time_base) * self.rate)

    def frames(self) -> Iterator[tuple[np.ndarray, Fraction | None]]:
        size = None
        for frame in self._decoded():
            size = size or (frame.width, frame.height)  # streams may change it on the way
            pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
            # Quarters of a turn, which phones write beside pixels that lie on their side.
            turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
            time = None if frame.pts is None else frame.pts * Fraction(frame.time_base)
            yield np.ascontiguousarray(turned), time

    def _decoded(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.num_damaged += 1
                packet = None  # gives the frames that the decoder still holds
            yield from self._decode(packet)
            if packet is None:
                return

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            self.num_damaged += not isinstance(error, EOFError)
            return []

    def close(self) -> None:
        self._container.close()


class _OpenCVSource:
    num_damaged = 0  # OpenCV does not tell damage from the end

    def __init__(self, path: str):
        import cv2

        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise ValueError(f"{path} is no video that OpenCV can read; PyAV reads more (pip: av)")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.num_frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        self.size = int(self._capture.get(width)), int(self._capture.get(height))

    def frames(self) -> Iterator[tuple[np.ndarray, Fraction | None]]:
        while True:
            success, frame = self._capture.read()
            if not success:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1]), None

    def close(self) -> None:
        self._capture.release()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
