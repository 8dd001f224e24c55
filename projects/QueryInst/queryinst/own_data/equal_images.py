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
    """How many images equal others.

    Attributes:
        within: by part, an earlier one of the same part.
        across: by part and earlier part, one of that.
        shared: by part, one of any other part.
    """

    within: dict[int, int]
    across: dict[tuple[int, int], int]
    shared: dict[int, int]


def find_equal(
    images: Sequence[Seen],
    findings: Findings,
    *,
    is_exact: bool,
    progress: Callable[[int], object] | None = None,
) -> EqualCounts:
    """Add what equals an image before it, of the same part and of others.

    A file that a part names twice is none of these. An image of several parts is one problem in
    each but the first.

    Args:
        is_exact: whether equal digests are of equal images; else files are read to know.
        progress: as `check_image_files`'s, of these files.
    """
    within: dict[int, int] = defaultdict(int)
    across: dict[tuple[int, int], int] = defaultdict(int)
    shared: dict[int, int] = defaultdict(int)
    for group in map(_without_repeated, _groups(images, is_exact, progress)):
        first_of: dict[int, Seen] = {}
        for image in group:
            if image.part in first_of:
                within[image.part] += 1
                _report(findings, EQUAL, image, first_of[image.part])
                continue
            earlier = list(first_of.values())
            for other in earlier:
                across[image.part, other.part] += 1
            if earlier:
                has_objects = any(x.num_objects for x in (image, *earlier))
                _report(findings, SHARED if has_objects else SHARED_EMPTY, image, earlier[0])
            first_of[image.part] = image
        if len(first_of) > 1:
            for image in group:
                shared[image.part] += 1
    return EqualCounts(dict(within), dict(across), dict(shared))


def _without_repeated(group: list[Seen]) -> list[Seen]:
    """The first image of each file in each part."""
    found: dict[tuple[int, str], Seen] = {}
    for image in group:
        found.setdefault((image.part, os.path.realpath(image.entry.path)), image)
    return list(found.values())


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
