"""Names of what is written: none replaces another, an input, or what is there already."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .inputs import Source

FOLDERS = ("masks", "crops")  # below the output folder, so no other file or folder's name
_MAX_STEM = 150  # bytes: a file system holds 255, with what is added
_OWN = re.compile(r"\d{3,}(-.*)?\.(jpg|png)")  # of files in the folders of one image or video


def unique_stems(sources: Sequence[Source]) -> dict[Source, str]:
    """A name for each source, its own without suffix, numbered where two are the same.

    "A" and "a", which some file systems take for one, are the same.
    """
    taken = set(FOLDERS)
    stems = {}
    for source in sources:
        own = os.path.splitext(os.path.basename(source.path.rstrip("/")))[0]
        own = safe_name(own, _MAX_STEM) or "image"
        stem, count = own, 1
        while stem.lower() in taken:
            count += 1
            stem = f"{own}-{count}"
        taken.add(stem.lower())
        stems[source] = stem
    return stems


def safe_name(text: str, max_bytes: int) -> str:
    """A text as a part of a file's name, without what has a meaning in paths and patterns."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "_", text).lstrip(".")
    return os.fsencode(plain)[:max_bytes].decode("utf-8", "ignore")


def check_output(folder: str, suffixes: Iterable[str]) -> None:
    """Raise a ValueError if the output folder's name looks like a file's, or is one."""
    if os.path.isdir(folder):
        return
    if os.path.exists(folder) or folder.lower().endswith(tuple(suffixes)):
        raise ValueError(f"--output {folder} is a file's name; name a folder")


def check_targets(
    targets: Iterable[Path], sources: Sequence[Source], *, overwrite: bool
) -> list[Path]:
    """Look at what is there, before anything is predicted.

    Args:
        targets: files, and folders for the files of one image or video.
        overwrite: what earlier runs wrote there may be replaced.

    Returns:
        What an earlier run wrote there, and has to be removed before anything is written.

    Raises:
        ValueError: a target is an input.
        FileExistsError: something is there, and `overwrite` is False.
    """
    inputs = {os.path.realpath(source.name) for source in sources if source.is_local}
    found = []
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"--output would replace the input {target}; name another folder")
        if not target.is_dir():
            found += [target] if target.exists() else []
            continue
        earlier = [path for path in target.iterdir() if _OWN.fullmatch(path.name)]
        inside = {os.path.realpath(path) for path in earlier} & inputs
        if inside:
            raise ValueError(f"--output would replace the input {inside.pop()}")
        found += earlier
    if found and not overwrite:
        more = f" and {len(found) - 1} more files are" if len(found) > 1 else " is"
        raise FileExistsError(
            f"{found[0]}{more} there already; add --overwrite, or name another folder with --output"
        )
    return found


def make_folder(folder: str | Path, label: str = "--output: ") -> None:
    """Make a folder, if it is not there, and see whether it can be written to.

    Args:
        folder: "" for the working directory.
        label: how messages begin.

    Raises:
        OSError: one line that names it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{label}cannot make the folder {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{label}the folder {folder} cannot be written to")


def targets_of(stems: Mapping[Source, str], folder: Path, suffix: str) -> list[Path]:
    """A file for each image, and a folder for each video."""
    return [
        folder / (stem if source.is_video else f"{stem}{suffix}") for source, stem in stems.items()
    ]
