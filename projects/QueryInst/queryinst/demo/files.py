"""Which images go in, and which files come out."""

import mimetypes
import os
from collections.abc import Iterable, Sequence

from PIL import Image

from ..predict.inputs import IMAGE_SUFFIXES, matching_files
from ..predict.naming import make_folder

_WRITTEN_AS_THEY_ARE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_images(inputs: Iterable[str]) -> list[str]:
    """The image files that files, folders and glob patterns stand for; each once, in order.

    Of a folder, the files directly in it that look like images by their suffix.

    Raises:
        FileNotFoundError: one of `inputs` stands for no image.
    """
    paths: dict[str, None] = {}
    for name in inputs:
        matches = matching_files(name, IMAGE_SUFFIXES)
        if not matches:
            raise FileNotFoundError(
                f"--input {name} matches no image (working directory {os.getcwd()})"
            )
        paths.update(dict.fromkeys(matches))
    return list(paths)


def plan_outputs(images: Sequence[str], output: str) -> list[str]:
    """One output file for each image; makes the folder.

    `output` is a file if it looks like one and there is one image; else a folder.

    Raises:
        ValueError: an output would replace an input, or is a file of a kind that Pillow cannot
            write.
        OSError: the folder cannot be made or written to.
    """
    if len(images) == 1 and _is_image_file(output):
        paths = [output]
    else:
        paths = [os.path.join(output, name) for name in _unique_names(images)]
    inputs = {os.path.realpath(image) for image in images}
    for path in paths:
        if os.path.realpath(path) in inputs:
            raise ValueError(f"--output would replace the input {path}; name another folder")
    make_folder(os.path.dirname(paths[0]))
    return paths


def _is_image_file(path: str) -> bool:
    """Whether a path names an image to write, not a folder; raises if Pillow cannot write it."""
    Image.init()
    kinds = Image.registered_extensions()
    if is_file_name(path, [suffix for suffix, kind in kinds.items() if kind in Image.SAVE]):
        return True
    kind = mimetypes.guess_type(path)[0] or ""
    if not os.path.isdir(path) and kind.startswith(("image/", "video/")):
        suffixes = ", ".join(_WRITTEN_AS_THEY_ARE)
        raise ValueError(
            f"--output {path} is a file of {kind}, which Pillow cannot write; name a folder, or one"
            f" of {suffixes}"
        )
    return False


def is_file_name(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a path names a file with one of these suffixes, not a folder."""
    return not os.path.isdir(path) and path.lower().endswith(tuple(suffixes))


def _unique_names(images: Sequence[str]) -> list[str]:
    """The images' own names, numbered where two folders have the same; PNG for odd formats."""
    names: dict[str, None] = {}
    for image in images:
        stem, suffix = os.path.splitext(os.path.basename(image))
        suffix = suffix if suffix.lower() in _WRITTEN_AS_THEY_ARE else ".png"
        name, count = stem + suffix, 1
        while name in names:
            count += 1
            name = f"{stem}-{count}{suffix}"
        names[name] = None
    return list(names)
