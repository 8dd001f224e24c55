"""Checks many image files, many at a time, by what a training would say about each."""

import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader, Dataset

from ..config import MAX_PIXELS
from .findings import Finding, Findings, Kind
from .image_headers import check_header, read_orientation
from .images import (
    SWAPPING_ORIENTATIONS,
    ImageFileError,
    check_image_size,
    check_sides,
    decode_image,
)

_ENDS = 4096  # bytes, of the beginning and the end of a file, in the digest of its header
_CHUNKS = {False: 64, True: 4}  # images that a process checks at a time, by: pixels
# With fewer images to a process, starting it takes longer than it saves.
_LEAST_SHARE = {False: 1000, True: 16}

_FIX_FILE = "restore the file from where it came, or leave the image out of the annotation file"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "image-missing",
            "error",
            "image files that do not exist",
            "correct 'file_name' or the image folder, or put the files there",
        ),
        Kind("image-empty", "error", "image files of 0 bytes", _FIX_FILE),
        Kind(
            "image-not-readable",
            "error",
            "image files that cannot be opened",
            "see to it that they are files, and that you may read them",
        ),
        Kind(
            "image-not-image",
            "error",
            "files that are no images",
            "save them as JPEG or PNG; what is there may be a web page, a pointer of Git LFS, or a"
            " part of an image",
        ),
        Kind("image-broken", "error", "damaged or truncated image files", _FIX_FILE),
        Kind(
            "image-too-large",
            "error",
            "images with more pixels than INPUT.MAX_PIXELS",
            "raise INPUT.MAX_PIXELS, or cut or shrink the images and annotate those",
        ),
        Kind(
            "image-32-bit",
            "error",
            "images with 32 bits a channel",
            "save them with 8 or 16 bits a channel",
        ),
        Kind(
            "image-size",
            "error",
            "images of another size than their annotation's",
            "correct 'width' and 'height' if the masks lie right, else take the images that were"
            " annotated",
        ),
        Kind(
            "image-turned",
            "error",
            "images that their EXIF orientation turns, annotated unturned",
            "remove that tag from the files, or annotate the turned images",
        ),
        Kind(
            "image-orientation",
            "note",
            "images that their EXIF orientation turns or mirrors, which no size tells",
            "nothing if they were annotated as viewers show them; `queryinst data show` draws both",
        ),
    )
}


class ImageEntry(NamedTuple):
    """An image as a data set names it.

    Attributes:
        path: of the file, which training opens.
        width, height: that the annotations say; None where they say nothing.
        image_id, file_name: as they stand in the data set, for messages.
    """

    path: str
    width: int | None = None
    height: int | None = None
    image_id: Any = None
    file_name: str = ""


class ImageFacts(NamedTuple):
    """What is in an image file.

    Attributes:
        problem: of KINDS; "" for none.
        message: what a training says, with the file's name.
        width, height: after the turn by the EXIF orientation; 0 where they are not known.
        digest: equal for equal images: of the pixels, or, of files whose headers alone were read,
            of their length and their ends, so that different ones may share it. Empty for what
            cannot be read.
        note: of the kind "image-orientation"; "" for none.
    """

    problem: str = ""
    message: str = ""
    width: int = 0
    height: int = 0
    digest: bytes = b""
    note: str = ""


def check_image_files(
    entries: Sequence[ImageEntry],
    *,
    pixels: bool,
    workers: int,
    findings: Findings,
    source: str,
    progress: Callable[[int], object] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[ImageFacts]:
    """Check image files against the sizes that their annotations say; nothing is kept.

    Args:
        pixels: decode all; otherwise only headers are read, and those whose end is missing or
            whose header does not tell enough are decoded.
        workers: processes; 0 for none. Few images are checked in this one.
        findings: gets what is wrong, in the order of `entries`.
        source: of the findings.
        progress: is called with the number of images that are done since the last call.
        max_pixels: an image has at most; INPUT.MAX_PIXELS.

    Yields:
        What is in each file, in the order of `entries`.

    Raises:
        RuntimeError: a process was killed, as for lack of memory.
    """
    checked = _Checked(entries, pixels, max_pixels)
    if len(entries) < 2 * _LEAST_SHARE[pixels]:
        workers = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        loader = DataLoader(
            checked,
            batch_size=_CHUNKS[pixels],
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # its own, so that a training's numbers stay as they are
            # Others would import everything anew in each process.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
    left = iter(entries)
    for chunk in loader:
        for entry, facts in zip(islice(left, len(chunk)), chunk):
            if kind := facts.problem or (facts.note and "image-orientation"):
                message = facts.message or facts.note
                finding = Finding(source, message, entry.image_id, None, entry.file_name)
                findings.add(KINDS[kind], finding)
            yield facts
        if progress:
            progress(len(chunk))


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others in good order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Checked(Dataset[ImageFacts]):
    """What is in the files, in the order of the entries."""

    def __init__(self, entries: Sequence[ImageEntry], pixels: bool, max_pixels: int):
        self.entries, self.pixels, self.max_pixels = entries, pixels, max_pixels

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> ImageFacts:
        if index >= len(self):
            raise IndexError(index)
        return check_image_file(self.entries[index], self.pixels, self.max_pixels)


def check_image_file(entry: ImageEntry, pixels: bool, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """As `check_image_files`, of one file."""
    if not os.path.isfile(entry.path) and os.path.exists(entry.path):  # a pipe would never end
        return ImageFacts("image-not-readable", f"image {entry.path} is not a regular file")
    try:
        with PathManager.open(entry.path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what does not matter
            check = _check_pixels if pixels else _check_header
            return check(entry, file, max_pixels)
    except FileNotFoundError:
        return ImageFacts("image-missing", f"image {entry.path} {_say_missing(entry.path)}")
    except ImageFileError as error:
        problem = "empty" if _is_empty(entry.path) else error.problem
        return ImageFacts(f"image-{problem}", str(error))
    except Exception as error:  # whatever opens remote paths can raise anything
        text = " ".join(str(error).split()) or type(error).__name__
        return ImageFacts("image-not-readable", f"cannot open image {entry.path}: {text}")


def _say_missing(path: str) -> str:
    if os.path.isfile(with_slashes(path)):
        return 'does not exist: its name has "\\" where "/" belongs'
    return "does not exist"


def with_slashes(path: str) -> str:
    """A path that Windows may have written."""
    return path.replace("\\", "/")


def _is_empty(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == 0


def _check_pixels(entry: ImageEntry, file: IO[bytes], max_pixels: int) -> ImageFacts:
    array = decode_image(file, entry.path, "RGB", max_pixels)
    check_image_size(_sizes(entry), array)
    height, width = array.shape[:2]
    digest = _digest(f"{width} {height} ".encode())
    digest.update(np.ascontiguousarray(array))
    file.seek(0)
    note = _say_unseen(entry, height, width, read_orientation(file, entry.path))
    return ImageFacts(width=width, height=height, digest=digest.digest(), note=note)


def _check_header(entry: ImageEntry, file: IO[bytes], max_pixels: int) -> ImageFacts:
    height, width, orientation = check_header(file, entry.path, max_pixels)
    check_sides(_sizes(entry), height, width)
    length = file.seek(0, os.SEEK_END)
    digest = _digest(f"{length} ".encode())
    for position in {0, max(0, length - _ENDS)}:
        file.seek(position)
        digest.update(file.read(_ENDS))
    note = _say_unseen(entry, height, width, orientation)
    return ImageFacts(width=width, height=height, digest=digest.digest(), note=note)


def _say_unseen(entry: ImageEntry, height: int, width: int, orientation: int) -> str:
    """Of an image that is turned, where the size that it was annotated with would be the same."""
    told = orientation in SWAPPING_ORIENTATIONS and height != width
    if orientation == 1 or told or entry.width is None:
        return ""
    return f"image {entry.path} has the EXIF orientation {orientation}, by which it is turned"


def _sizes(entry: ImageEntry) -> dict[str, Any]:
    sides = {"width": entry.width, "height": entry.height}
    return {"file_name": entry.path, **{k: v for k, v in sides.items() if v is not None}}


def digest_file(path: str) -> bytes:
    """Of all bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    with PathManager.open(path, "rb") as file:
        return hashlib.file_digest(file, _digest).digest()


def _digest(start: bytes = b"") -> Any:
    # The fastest of hashlib's on CPUs with instructions for it, which nobody has to withstand.
    return hashlib.sha1(start, usedforsecurity=False)
