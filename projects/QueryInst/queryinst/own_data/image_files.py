"""Image files of a folder, and their sizes."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..data.image_check import ImageEntry, ImageFacts, check_image_files
from ..predict.inputs import IMAGE_SUFFIXES
from .problems import Problems

_MOST_WORKERS = 4  # reading waits for the disk


def num_workers() -> int:
    """Processes that read image files at once."""
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def files_below(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """All files of these suffixes in a folder and the folders in it, by their names.

    Links to folders are followed; hidden files and folders are passed over.
    """
    found, seen = [], set()
    for top, folders, names in os.walk(str(folder), followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else sorted(x for x in folders if not x.startswith("."))
        names = [] if real in seen else sorted(names)  # a link that leads back
        seen.add(real)
        found += [os.path.join(top, name) for name in names if _has_suffix(name, suffixes)]
    return found


def images_below(folder: Path) -> list[str]:
    """As `files_below`, of images."""
    return files_below(folder, IMAGE_SUFFIXES)


def is_image(name: str) -> bool:
    return _has_suffix(name, IMAGE_SUFFIXES)


def _has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not name.startswith(".")


def folder_name(folder: str | os.PathLike[str]) -> str:
    """Of "..", too."""
    return os.path.basename(os.path.abspath(folder)) or "data"


def by_stem(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by their names without suffix."""
    found = defaultdict(list)
    for path in paths:
        found[Path(path).stem].append(path)
    return found


def read_sizes(
    paths: Sequence[str], data: str, problems: Problems, progress: Callable[[int], object]
) -> list[ImageFacts]:
    """Sizes of images, turned by their EXIF orientation; 0 for those that `problems` names.

    Args:
        data: the source of what is wrong.
        progress: is called with the number of images that are done since the last call.
    """
    facts = check_image_files(
        [ImageEntry(path, file_name=path) for path in paths],
        pixels=False,
        workers=num_workers(),
        findings=problems.findings,
        source=data,
        progress=progress,
    )
    return list(facts)
