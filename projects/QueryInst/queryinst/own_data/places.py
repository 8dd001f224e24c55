"""Where images lie in a data set that is written: names that no two share."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath

from tqdm import tqdm

from queryinst_runtime.images import open_image

from .contents import Photo
from .image_files import is_image

_SUFFIXES = {
    **{"BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"},
    **{"PPM": ".ppm", "TIFF": ".tif", "WEBP": ".webp"},
}


def coco_places(photos: Sequence[Photo]) -> Iterator[tuple[Photo, PurePath]]:
    """Each image with its path in the folder of its part; equal names are numbered."""
    return _apart(photos, _own_place, str)


def yolo_places(photos: Sequence[Photo]) -> Iterator[tuple[Photo, PurePath]]:
    """As `coco_places`; names that differ in their suffix are equal, as they share their labels.

    Raises:
        ValueError: no reader would take a file for an image. One line.
    """
    return _apart(photos, _yolo_place, lambda place: str(place.with_suffix("")))


def _own_place(photo: Photo) -> PurePath:
    own = PurePath(photo.record["file_name"])
    return PurePath(own.name) if own.is_absolute() or ".." in own.parts else own


def _yolo_place(photo: Photo) -> PurePath:
    """Below no folder "images", for readers put "labels" for the last one; with a known suffix.

    Nothing is hidden, as readers pass over that.
    """
    *folders, name = (part.lstrip(".") for part in _own_place(photo).parts)
    own = PurePath(*(folder for folder in folders if folder != "images"), name)
    return own if is_image(own.name) else own.with_name(own.name + _suffix_of(photo.path))


def _suffix_of(path: str) -> str:
    with open_image(path) as image:
        format = image.format
    if format not in _SUFFIXES:
        raise ValueError(
            f"image {path} is {format}, which YOLO's format does not have; save it as PNG or JPEG"
        )
    return _SUFFIXES[format]


def _apart(
    photos: Sequence[Photo],
    place_of: Callable[[Photo], PurePath],
    key_of: Callable[[PurePath], str],
) -> Iterator[tuple[Photo, PurePath]]:
    taken = set()
    for photo in tqdm(photos, unit="image", disable=None, leave=False):
        place = own = place_of(photo)
        count = 1
        while (key := key_of(place).lower()) in taken:
            count += 1
            place = own.with_stem(f"{own.stem}-{count}")
        taken.add(key)
        yield photo, place
