"""What decoding an image would say, from as little of its file as that takes."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, NamedTuple

from PIL import Image

from .images import (
    EXIF_ORIENTATION,
    SWAPPING_ORIENTATIONS,
    PathLike,
    check_bits,
    check_num_pixels,
    decode_image,
    open_header,
)

_END_OF_JPEG = b"\xff\xd9"
_JPEG_TAIL = 64  # bytes, in which the end of a JPEG is looked for; some cameras pad their files
_PNG_PIXELS = (b"IDAT", b"fdAT", b"fcTL", b"IEND")  # fdAT and fcTL of animations
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325  # tags of TIFF


class Header(NamedTuple):
    """Sides of the image that its EXIF orientation turned, and that orientation, 1 for none."""

    height: int
    width: int
    orientation: int = 1


def check_header(file: IO[bytes], file_name: PathLike, max_pixels: int) -> Header:
    """What the header says of an image.

    An image that may have lost its end, or whose header does not tell all, is decoded.

    Raises:
        ImageFileError: as `read_image`, whose pixels are those of the whole file.
    """
    with open_header(file, file_name) as image:
        check_num_pixels(image, file_name, max_pixels)
        check_bits(image.mode, image.format, file_name)
        is_whole = _CHECKS.get(image.format or "")
        try:
            is_told = is_whole is not None and is_whole(file, image)
        except Exception:  # of damaged files, as Pillow's readers
            is_told = False
        if is_told:
            width, height = image.size
            orientation = _orientation_of(image)
            # Pillow's size of a TIFF is the turned one.
            if image.format != "TIFF" and orientation in SWAPPING_ORIENTATIONS:
                width, height = height, width
            return Header(height, width, orientation)
    file.seek(0)
    return Header(*decode_image(file, file_name, "RGB", max_pixels).shape[:2])


def read_orientation(file: IO[bytes], file_name: PathLike) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where it has none.

    Raises:
        ImageFileError: as `read_image`.
    """
    with open_header(file, file_name) as image:
        return _orientation_of(image)


def _orientation_of(image: Image.Image) -> int:
    with suppress(Exception):  # of damaged tags: Detectron2 turns nothing then
        # Of a PNG, its own method would decode the pixels for tags behind them.
        found = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    return 1


def _is_whole_jpeg(file: IO[bytes], image: Image.Image) -> bool:
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _JPEG_TAIL))
    return _END_OF_JPEG in file.read()


def _is_whole_png(file: IO[bytes], image: Image.Image) -> bool:
    """Whether all chunks are there, none with tags behind the pixels."""
    has_pixels = False
    for kind in _png_chunks(file):
        if kind == b"IEND":
            return has_pixels
        has_pixels = has_pixels or kind == b"IDAT"
        if has_pixels and kind not in _PNG_PIXELS:
            return False
    return False


def _png_chunks(file: IO[bytes]) -> Iterator[bytes]:
    end = file.seek(0, os.SEEK_END)
    position = 8  # after the signature
    while position + 12 <= end:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        position += 12 + length  # length, kind and checksum
        if position <= end:
            yield kind


def _is_whole_tiff(file: IO[bytes], image: Image.Image) -> bool:
    tags = image.tag_v2  # type: ignore[attr-defined]
    places, lengths = (
        tags.get(key) or tags[other]
        for key, other in ((_STRIPS, _TILES), (_STRIP_BYTES, _TILE_BYTES))
    )
    end = file.seek(0, os.SEEK_END)
    return all(place + length <= end for place, length in zip(places, lengths, strict=True))


def _is_whole_webp(file: IO[bytes], image: Image.Image) -> bool:
    end = file.seek(0, os.SEEK_END)
    file.seek(4)  # after "RIFF"
    (length,) = struct.unpack("<I", file.read(4))
    return 8 + length <= end


def _is_whole_bitmap(file: IO[bytes], image: Image.Image) -> bool:
    """Whether the pixels are uncompressed, and all there."""
    ((decoder, _, offset, args),) = image.tile  # type: ignore[attr-defined]
    _, row_bytes, _ = args
    return decoder == "raw" and offset + row_bytes * image.height <= file.seek(0, os.SEEK_END)


_CHECKS: dict[str, Callable[[IO[bytes], Image.Image], bool]] = {
    "JPEG": _is_whole_jpeg,
    "MPO": _is_whole_jpeg,
    "PNG": _is_whole_png,
    "TIFF": _is_whole_tiff,
    "WEBP": _is_whole_webp,
    "BMP": _is_whole_bitmap,
}
