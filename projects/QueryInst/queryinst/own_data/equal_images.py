"""Images that are in a data set more than once."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..data.findings import Finding, Findings, Kind
from ..data.image_check import ImageEntry, digest_file

EQUAL = Kind(
    "images-equal",
    "warning",
    "image files that equal another one of the same part",
    "keep one of each, with the annotations of both; the model sees such an image more often",
)
SHARED = Kind(
    "images-in-parts",
    "error",
    "images that are in more than one part, so that figures on held-out images are too good",
    "leave them out of all parts but one; `queryinst data split` keeps equal images together",
)
SHARED_EMPTY = Kind(
    "images-in-parts-empty",
    "warning",
    "images without objects that are in more than one part",
    "leave them out of all parts but one, unless they are plain background",
)


class Seen(NamedTuple):
    """An image file that was read.

    Attributes:
        digest: equal ones may be of equal images.
        num_objects: that it shows.
    """

    part: int
    source: str
    entry: ImageEntry
    digest: bytes
    num_objects: int


class EqualCounts(NamedTuple):
    """How many images equal an earlier one.

    Attributes:
        within: by part, of the same part.
        across: by part and earlier part.
    """

    within: dict[int, int]
    across: dict[tuple[int, int], int]


def find_equal(
    images: Sequence[Seen],
    findings: Findings,
    *,
    is_exact: bool,
    progress: Callable[[int], object] | None = None,
) -> EqualCounts:
    """Add what equals an image before it, of the same part and of others.

    A file that a part names twice is none of these.

    Args:
        is_exact: whether equal digests are of equal images; else files are read to know.
        progress: as `check_image_files`'s, of these files.
    """
    within: dict[int, int] = defaultdict(int)
    across: dict[tuple[int, int], int] = defaultdict(int)
    for group in _groups(images, is_exact, progress):
        first_of: dict[int, Seen] = {}
        paths: set[tuple[int, str]] = set()
        for image in group:
            path = image.part, os.path.realpath(image.entry.path)
            if path in paths:
                continue
            paths.add(path)
            if image.part in first_of:
                within[image.part] += 1
                _report(findings, EQUAL, image, first_of[image.part])
                continue
            for earlier in first_of.values():
                across[image.part, earlier.part] += 1
                has_objects = image.num_objects or earlier.num_objects
                _report(findings, SHARED if has_objects else SHARED_EMPTY, image, earlier)
            first_of[image.part] = image
    return EqualCounts(dict(within), dict(across))


def _report(findings: Findings, kind: Kind, image: Seen, earlier: Seen) -> None:
    text = f"image {image.entry.path} equals {earlier.entry.path}"
    entry = image.entry
    findings.add(kind, Finding(image.source, text, entry.image_id, None, entry.file_name))


def _groups(
    images: Sequence[Seen], is_exact: bool, progress: Callable[[int], object] | None
) -> list[list[Seen]]:
    """Two or more equal images each, in the order of the first ones."""
    groups = _by_digest(images, [image.digest for image in images])
    if is_exact:
        return groups
    exact = []
    for group in groups:
        paths = [os.path.realpath(image.entry.path) for image in group]
        # Links and names that are one file are read once.
        digests = {path: _digest(path) for path in dict.fromkeys(paths)}
        if progress:
            progress(len(group))
        exact += _by_digest(group, [digests[path] for path in paths])
    return exact


def _digest(path: str) -> bytes:
    try:
        return digest_file(path)
    except OSError:  # it could be read a moment ago
        return b""


def _by_digest(images: Sequence[Seen], digests: Sequence[bytes]) -> list[list[Seen]]:
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for image, digest in zip(images, digests):
        if digest:
            groups[digest].append(image)
    return [group for group in groups.values() if len(group) > 1]
