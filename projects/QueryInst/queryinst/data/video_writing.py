"""Video files that browsers play, of any size and rate."""

import logging
import math
import os
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from .video_reading import checked_rate

try:
    import av
except ImportError:  # the extra "video"; OpenCV writes what it can
    av = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_FORMATS = {".m4v": "mp4", ".mkv": "matroska"}  # of suffixes that are not the format's name
_NAMES = {"h264": "H.264", "vp9": "VP9", "vp8": "VP8", "mjpeg": "Motion-JPEG", "mpeg4": "MPEG-4"}
_IN_BROWSERS = {"H.264": (".mp4", ".m4v", ".mov"), "VP9": (".mp4", ".webm"), "VP8": (".webm",)}
_VPX = {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "crf": "28", "b": "0"}
_OPTIONS = {"libx264": {"preset": "veryfast", "crf": "20"}, "libvpx-vp9": _VPX}
_OPENCV_NAMES = {
    "avc1": "H.264",
    "vp09": "VP9",
    "VP90": "VP9",
    "VP80": "VP8",
    "MJPG": "Motion-JPEG",
}
_MIN_TICKS = 10_000  # a second: how exactly the times of frames are kept
_ON_THE_GRID = 0.05  # of a frame: .mkv and .webm round times to milliseconds
_BT601 = 5  # FFmpeg's number of the colours that RGB is converted to


class _Sink(Protocol):
    codec: str
    size: tuple[int, int]  # width, height

    def write(self, pixels: np.ndarray, time: Fraction | None) -> None: ...

    def close(self) -> None: ...


class VideoWriter:
    """A video file that grows by a frame at a time; nothing but the file holds what is written.

    H.264 (yuv420p, its index in front) in .mp4, .m4v, .mov and .mkv. H.264 as browsers play it has
    even sizes alone: odd ones are VP9 there, which keeps them (MPEG-4 in .mov). VP9 in .webm,
    Motion-JPEG in .avi. That is through PyAV; without it, what OpenCV can write. `close` says what
    was written, and makes the file playable: use it in `with`, which does so on errors and
    Ctrl-C as well.
    """

    def __init__(self, path: str | os.PathLike[str], rate: Fraction | float):
        """
        Args:
            path: its suffix is one of `VIDEO_SUFFIXES`. The file appears with the first frame.
            rate: frames per second, such as `VideoReader.rate`.

        Raises:
            ValueError: another suffix.
        """
        self.path = os.fspath(path)
        self._suffix = os.path.splitext(self.path)[1].lower()
        if self._suffix not in VIDEO_SUFFIXES:
            raise ValueError(f"{self.path}: a video is written as {', '.join(VIDEO_SUFFIXES)}")
        self.rate = checked_rate(rate, self.path)
        self.num_frames = 0
        self._sink: _Sink | None = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def write(self, pixels: np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame.

        Args:
            pixels: (H, W, 3) uint8, RGB; all frames of one size.
            time: seconds, as of `Frame`; None for a constant rate. .avi has constant rates alone.

        Raises:
            ValueError: the frame has another size than the first.
            OSError: the file cannot be written.
        """
        self._shape = self._shape or pixels.shape
        if pixels.shape != self._shape:
            raise ValueError(
                f"{self.path}: frame {self.num_frames} has shape {pixels.shape}, the first"
                f" {self._shape}"
            )
        height, width = pixels.shape[:2]
        if self._sink is None:
            self._sink = self._open(width, height)
        try:
            self._sink.write(np.ascontiguousarray(pixels), time)
        except OSError as error:  # a full disk, for instance; PyAV's errors are OSErrors too
            raise OSError(f"cannot write {self.path} ({error})") from error
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file; again, it does nothing.

        Raises:
            OSError: the file cannot be written.
        """
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except OSError as error:
            raise OSError(f"cannot write {self.path} ({error})") from error
        plays = self._suffix in _IN_BROWSERS.get(sink.codec, ())
        logger.info(
            "wrote %s: %d frames of %dx%d, %s",
            *(self.path, self.num_frames, *sink.size, sink.codec),
        )
        if not plays:
            logger.warning("%s in %s plays in few browsers", sink.codec, self._suffix)

    def _open(self, width: int, height: int) -> _Sink:
        failures = []
        open_sink = _OpenCVSink if av is None else _AVSink
        for codec in open_sink.codecs(self._suffix, width % 2 == 1 or height % 2 == 1):
            try:
                return open_sink(self.path, codec, self.rate, width, height)
            except (ValueError, OSError) as error:
                failures.append(f"{codec}: {error}")
        if os.path.isfile(self.path) and os.path.getsize(self.path) == 0:
            os.remove(self.path)
        raise OSError(f"cannot write {self.path} ({'; '.join(failures)})")


class _AVSink:
    def __init__(self, path: str, codec: str, rate: Fraction, width: int, height: int):
        suffix = os.path.splitext(path)[1].lower()
        av.codec.Codec(codec, "w")  # raises where this build lacks it, before there is a file
        self._container = _new_container(path, suffix)
        try:
            self._stream = self._container.add_stream(codec, rate, _OPTIONS.get(codec, {}))
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            context = self._stream.codec_context
            context.colorspace = _BT601
            self._is_constant = suffix == ".avi"
            steps = math.ceil(_MIN_TICKS / rate.numerator)
            self._ticks = 1 if self._is_constant else steps * rate.denominator  # of a frame
            context.time_base = 1 / (self._ticks * rate)
            context.open()
            self._container.start_encoding()
        except Exception:
            self._container.close()
            raise
        self.codec = _NAMES.get(context.codec.canonical_name, context.codec.canonical_name)
        self.size = width, height
        self._rate = rate
        self._count, self._last = 0, -1
        self._start: Fraction | None = None

    @staticmethod
    def codecs(suffix: str, is_odd: bool) -> tuple[str, ...]:
        """Encoders of FFmpeg to try in turn."""
        if suffix == ".webm":
            return "libvpx-vp9", "libvpx"
        if suffix == ".avi":
            return ("mjpeg",)
        return ("libvpx-vp9", "mpeg4") if is_odd else ("libx264", "h264", "libvpx-vp9", "mpeg4")

    def write(self, pixels: np.ndarray, time: Fraction | None) -> None:
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = self._last = max(self._place(time), self._last + 1)
        frame.time_base, frame.duration = self._stream.codec_context.time_base, self._ticks
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def _place(self, time: Fraction | None) -> int:
        """A time in ticks; that of a whole number of frames, where it is all but one."""
        if time is None or self._is_constant:
            return self._count * self._ticks
        self._start = time if self._start is None else self._start
        frames = (Fraction(time) - self._start) * self._rate
        is_whole = abs(frames - round(frames)) < _ON_THE_GRID
        return round(frames) * self._ticks if is_whole else round(frames * self._ticks)

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode())
        finally:
            self._container.close()


def _new_container(path: str, suffix: str) -> Any:
    options = {"movflags": "+faststart"} if suffix in (".m4v", ".mov", ".mp4") else {}
    return av.open(path, "w", format=_FORMATS.get(suffix, suffix[1:]), options=options)


class _OpenCVSink:
    def __init__(self, path: str, codec: str, rate: Fraction, width: int, height: int):
        import cv2

        self._pad = ((0, height % 2), (0, width % 2), (0, 0))
        self.size = width + width % 2, height + height % 2
        fourcc = cv2.VideoWriter.fourcc(*codec)
        self._writer = cv2.VideoWriter(path, fourcc, float(rate), self.size)
        if not self._writer.isOpened():
            raise OSError("this OpenCV cannot write it; PyAV can (pip: av)")
        self.codec = _OPENCV_NAMES.get(codec, codec)
        if self.size != (width, height):
            logger.warning("%s is %dx%d: OpenCV writes even sizes alone", path, *self.size)

    @staticmethod
    def codecs(suffix: str, is_odd: bool) -> tuple[str, ...]:
        """Codecs to try in turn, as OpenCV names them."""
        return {".webm": ("VP90", "VP80"), ".avi": ("MJPG",)}.get(suffix, ("avc1", "vp09", "mp4v"))

    def write(self, pixels: np.ndarray, time: Fraction | None) -> None:
        self._writer.write(np.pad(pixels[:, :, ::-1], self._pad, mode="edge"))

    def close(self) -> None:
        self._writer.release()
