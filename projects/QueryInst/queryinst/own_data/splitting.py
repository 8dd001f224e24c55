"""Splits a data set by images."""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..data.findings import Findings
from ..data.image_check import ImageEntry, check_image_files
from .contents import Content, Photo
from .image_files import num_workers
from .stratifying import stratify


def split_content(
    content: Content,
    shares: Mapping[str, float],
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> Content:
    """The images of all parts, assigned to other parts.

    Images of equal pixels are in one part, as are versions of one image that Roboflow made. Classes
    are spread over the parts by iterative stratification.

    Args:
        shares: of the images, by the names of the new parts; they sum up to 1.
        seed: the same assigns the same.
        progress: is called with the number of images that are read since the last call.

    Raises:
        ValueError: there are fewer images that differ than parts, or an image cannot be read.
    """
    photos = sorted(content.photos, key=lambda photo: photo.path)
    groups = group_equal(photos, progress)
    numbers, sizes = np.unique(groups, return_counts=True)
    labels = np.zeros((len(numbers), len(content.classes)), np.int64)
    for group, photo in zip(groups, photos):
        present = {x["category_id"] for x in photo.annotations if not x.get("iscrowd", 0)}
        labels[group, sorted(present)] += 1
    assigned = stratify(labels, sizes, list(shares.values()), seed)[groups]
    parts = {
        name: [photo for photo, part in zip(photos, assigned) if part == place]
        for place, (name, share) in enumerate(shares.items())
        if share > 0
    }
    return Content(content.classes, parts, content.extras)


def group_equal(
    photos: Sequence[Photo], progress: Callable[[int], object] | None = None
) -> list[int]:
    """A number for each image, from 0, which equal images share.

    Raises:
        ValueError: an image cannot be read.
    """
    findings = Findings()
    entries = [ImageEntry(photo.path, file_name=photo.path) for photo in photos]
    facts = check_image_files(
        entries,
        pixels=True,
        workers=num_workers(),
        findings=findings,
        source="",
        progress=progress,
    )
    first: dict[bytes | str, int] = {}  # the group of a digest, or of an image of Roboflow's
    merged: dict[int, int] = {}
    groups = []
    for number, (photo, fact) in enumerate(zip(photos, facts)):
        keys = [fact.digest or photo.path, *_original_of(photo)]
        known = {_last(merged, first[key]) for key in keys if key in first} | {number}
        group = min(known)
        merged |= dict.fromkeys(known - {group}, group)
        first |= dict.fromkeys(keys, group)
        groups.append(number)
    for problem in findings.groups("error"):
        raise ValueError(problem.examples[0].message)
    roots = [_last(merged, number) for number in groups]
    places = {root: place for place, root in enumerate(dict.fromkeys(roots))}
    return [places[root] for root in roots]


def _last(merged: Mapping[int, int], number: int) -> int:
    while number in merged:
        number = merged[number]
    return number


def _original_of(photo: Photo) -> list[str]:
    """Of "a_jpg.rf.0123abcd.jpg", a version that Roboflow made, what it was made of."""
    name = os.path.basename(photo.path)
    original, found, _ = name.rpartition(".rf.")
    return [f"roboflow {original}"] if found else []
