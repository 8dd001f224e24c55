"""What is predicted on: files, folders, patterns, addresses, videos, standard input."""

import glob
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from ..config import MAX_PIXELS
from ..data.images import decode_image, read_image
from ..data.video_reading import VideoReader
from ..data.video_writing import VIDEO_SUFFIXES
from ..yaml_files import is_remote
from .web import MAX_IMAGE_BYTES, fetch, is_web, path_of

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
STANDARD_INPUT = "-"


class Source(NamedTuple):
    """An image, or a video."""

    name: str  # a path, an address, or "-"
    is_video: bool = False

    @property
    def path(self) -> str:
        """A path whose last part names it: its own, that in its address, or "stdin"."""
        if self.name == STANDARD_INPUT:
            return "stdin"
        return path_of(self.name) if is_web(self.name) else self.name

    @property
    def is_local(self) -> bool:
        return self.name != STANDARD_INPUT and not is_web(self.name)


class Frame(NamedTuple):
    """What the model sees of a source.

    Attributes:
        number: of a video's frame, from 0; None for an image.
        pixels: (H, W, 3) uint8, RGB.
        time: of a video's frame, seconds since the first.
        rate: of a video, frames per second.
    """

    source: Source
    number: int | None
    pixels: np.ndarray
    time: Fraction | None = None
    rate: Fraction = Fraction(0)

    @property
    def name(self) -> str:
        """How messages name it."""
        return (
            self.source.name if self.number is None else f"{self.source.name}, frame {self.number}"
        )


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """The images and videos that a command's inputs stand for; each once, in order.

    Of a folder, the files directly in it that look like images or videos by their suffix. An input
    that stands for nothing is a source that cannot be read.
    """
    names: dict[str, None] = {}
    for name in inputs:
        if name == STANDARD_INPUT or is_web(name):
            names[name] = None
        else:
            matches = matching_files(name, IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            names.update(dict.fromkeys(matches or [name]))
    sources = [Source(name) for name in names]
    return [x._replace(is_video=x.path.lower().endswith(VIDEO_SUFFIXES)) for x in sources]


def matching_files(name: str, suffixes: Sequence[str]) -> list[str]:
    """The files that a file, a folder or a glob pattern stands for, by their names.

    Args:
        suffixes: in lower case, of the files in a folder.
    """
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return [path]
    is_folder = os.path.isdir(path)
    pattern = os.path.join(glob.escape(path), "*") if is_folder else path
    matches = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    return [match for match in matches if not is_folder or match.lower().endswith(tuple(suffixes))]


def check_exists(source: Source) -> None:
    """Raise an OSError, one line, for a local source where no file is."""
    name = source.name
    if not source.is_local or is_remote(name):
        return
    if os.path.isdir(name):
        raise IsADirectoryError(f"the folder {name} holds no image or video")
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name} matches no file (working directory {os.getcwd()})")


def read_frames(source: Source, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """The image, or the video's frames one by one.

    Raises:
        ValueError: it is none, is damaged, or has more pixels than `max_pixels`. One line.
        OSError: it cannot be read, or downloaded.
    """
    if not source.is_video:
        check_exists(source)
        yield Frame(source, None, _read_still(source.name, max_pixels))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = source.name
        if is_web(path):
            path = os.path.join(folder, f"video{os.path.splitext(source.path)[1]}")
            with open(path, "wb") as file:
                fetch(source.name, file)
        with VideoReader(path, max_pixels) as video:
            for number, frame in enumerate(video):
                yield Frame(source, number, frame.pixels, frame.time, video.rate)


def count_frames(source: Source) -> int | None:
    """Of a local video, what its file says; 1 for an image; None if it is not known."""
    if not source.is_video:
        return 1
    if not source.is_local:
        return None
    try:
        with VideoReader(source.name) as video:
            return video.num_frames or None
    except (OSError, ValueError):  # which reading it will say
        return 0


def _read_still(name: str, max_pixels: int) -> np.ndarray:
    if name == STANDARD_INPUT:
        content = io.BytesIO(sys.stdin.buffer.read())
        return decode_image(content, "standard input", "RGB", max_pixels)
    return read_rgb(name, max_pixels)


def read_rgb(name: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as (H, W, 3) uint8, RGB.

    Args:
        name: a path, or an http(s) address.

    Raises:
        ValueError, OSError: as `read_frames`.
    """
    if not is_web(name):
        return read_image(name, "RGB", max_pixels)
    content = io.BytesIO()
    fetch(str(name), content, MAX_IMAGE_BYTES)
    content.seek(0)
    return decode_image(content, str(name), "RGB", max_pixels)
