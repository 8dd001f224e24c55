"""Image files of a folder, and their sizes."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..data.image_check import ImageEntry, ImageFacts, check_image_files
from ..predict.inputs import IMAGE_SUFFIXES
from .problems import Problems

_WORKERS = 4  # at most; reading headers waits for the disk


def images_below(folder: Path) -> list[str]:
    """All image files in a folder and the folders in it, by their names."""
    found = []
    for top, folders, names in os.walk(str(folder), followlinks=True):
        folders[:] = sorted(x for x in folders if not x.startswith("."))
        found += [os.path.join(top, name) for name in sorted(names) if is_image(name)]
    return found


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def by_stem(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by their names without suffix."""
    found = defaultdict(list)
    for path in paths:
        found[Path(path).stem].append(path)
    return found


def read_sizes(paths: Sequence[str], problems: Problems, progress=None) -> list[ImageFacts]:
    """Sizes of images, turned by their EXIF orientation; 0 for those that `problems` names."""
    facts = check_image_files(
        [ImageEntry(path, file_name=path) for path in paths],
        pixels=False,
        workers=min(_WORKERS, os.cpu_count() or 1),
        findings=problems.findings,
        source="",
        progress=progress,
    )
    return list(facts)
