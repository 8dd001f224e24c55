"""Label images: a picture an image, whose pixels are the numbers of objects; 0 is background."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util

from queryinst_runtime.images import open_image

from ..data.coco_folder import split_name
from .image_files import files_below, folder_name, images_below
from .label_names import find_list, find_table, read_table
from .labels import Item, LabelledObject, Layout, as_text, is_class_name
from .problems import (
    BAD_FILE,
    NO_IMAGE,
    NO_LABELS,
    ONE_CLASS,
    ONE_ID,
    UNKNOWN_CLASS,
    VOID,
    Problems,
)

_IMAGES = "images"
_LABELS = ("masks", "labels", "instances", "label_images")  # folders of label images
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # without loss
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # Pillow's, of one channel of integers
_VOID = 255  # in VOC's outlines, and wherever 8 bits say that pixels are of no object
_YES = ({1}, {255})  # the numbers in pictures that say where objects are, but not which
ONLY_CLASS = "object"  # the name of the class, if no other is known


def is_label_images(folder: Path) -> bool:
    return bool(_find_folders(folder))


def find_layout(data: str, problems: Problems) -> Layout:
    """Of "images" and "masks" in a folder, or in its folders "train" and "val".

    Raises:
        ValueError: the table of names is malformed, or there are folders of classes as well.
    """
    root = Path(data)
    pairs = _find_folders(root)
    class_folders = {part: _class_folders(*folders) for part, folders in pairs.items()}
    names = sorted({name for found in class_folders.values() for name in found})
    folders = [root, *(labels for _, labels in pairs.values())]
    table_file = find_table(folders)
    if names and table_file:
        raise ValueError(f"{data} has a folder of the class {names[0]}, and {table_file}: keep one")
    class_of: dict[str, str] = {}  # by the label image
    parts = {}
    for part, (images, labels) in pairs.items():
        by_class = class_folders[part] or {ONLY_CLASS: labels}
        parts[part] = _find_items(images, by_class, class_of, problems)
    table = read_table(table_file) if table_file else None
    if not table and ONLY_CLASS in class_of.values() and ONLY_CLASS not in names:
        found = find_list(folders)
        more = f"; {found} is not read" if found else ""
        problems.add(ONE_CLASS, data, f"all are of the class {ONLY_CLASS!r}{more}")

    def name_of(label: str, number: int) -> str | None:
        return table.name_of(Path(label).stem, number) if table else class_of[label]

    def read(item: Item, height: int, width: int) -> Iterator[LabelledObject]:
        for label in item.labels:
            try:
                numbers = read_numbers(label, height, width)
            except ValueError as error:
                problems.add(BAD_FILE, label, str(error), item.image)
                continue
            rles = rles_of(numbers)
            _find_parts(numbers, set(rles), label, item.image, problems)
            if not table:
                _find_void(rles, label, item.image, problems)
            yield from _objects_of(rles, label, name_of, item.image, problems)

    return Layout(parts, table.classes if table else sorted({*class_of.values()}), read)


def _find_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of label images, by the names of the parts.

    Raises:
        ValueError: there are several folders of label images, or of one part.
    """
    found: dict[str, tuple[Path, Path]] = {}
    splits = [path for path in sorted(root.glob("*")) if path.is_dir() and split_name(path.name)]
    for top in (root, *splits):
        images = top / _IMAGES
        folders = [top / name for name in _LABELS if _label_images(top / name)]
        if not images.is_dir() or not folders:
            continue
        if len(folders) > 1:
            raise ValueError(f"{folders[0]} and {folders[1]} both have label images; keep one")
        inner = [x.name for x in sorted(images.glob("*")) if split_name(x.name)]
        inner = [name for name in inner if top == root and (folders[0] / name).is_dir()]
        own = split_name(top.name) if top != root else folder_name(root)
        pairs = [(split_name(x), images / x, folders[0] / x) for x in inner]
        for part, *pair in pairs or [(own, images, folders[0])]:
            if part in found:
                raise ValueError(f"{found[part][0]} and {pair[0]} are both of the part {part}")
            found[part] = pair[0], pair[1]
    return found


def _label_images(folder: Path) -> list[Path]:
    return list(map(Path, files_below(folder, _SUFFIXES)))


def _class_folders(images: Path, labels: Path) -> dict[str, Path]:
    """The folders of label images of one class each: those that the images have not as well.

    Raises:
        ValueError: there are label images beside them, or a folder's name cannot be a class's.
    """
    found = {
        path.name: path
        for path in sorted(labels.glob("*"))
        if path.is_dir() and _label_images(path) and not (images / path.name).is_dir()
    }
    beside = [x for x in labels.glob("*") if x.suffix.lower() in _SUFFIXES and x.is_file()]
    if found and beside:
        raise ValueError(
            f"{labels} has folders of classes ({next(iter(found))}) and {beside[0].name}"
        )
    for name in found:
        if not is_class_name(name):
            raise ValueError(
                f"the folder {labels / name!r} of a class must have a line of text as name"
            )
    return found


def _find_items(
    images: Path, by_class: Mapping[str, Path], class_of: dict[str, str], problems: Problems
) -> list[Item]:
    """The images with their label images, which have the same place and stem; fills `class_of`."""
    labels: dict[str, list[str]] = {}
    for name, folder in by_class.items():
        for path in _label_images(folder):
            class_of[str(path)] = name
            labels.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(str(path))
    items = []
    left = dict(labels)
    for image in images_below(images):
        stem = os.path.splitext(os.path.relpath(image, images))[0]
        left.pop(stem, None)
        if stem in labels:
            items.append(Item(image, tuple(labels[stem])))
        else:
            problems.add(NO_LABELS, image, f"no label image is called {stem}")
    for paths in left.values():
        problems.add(NO_IMAGE, paths[0], f"no image in {images} has this name")
    return items


def read_numbers(path: str, height: int, width: int) -> np.ndarray:
    """The numbers of objects, (H, W) integers.

    Raises:
        ValueError: it cannot be read, has other channels, or is of another size.
    """
    try:
        with open_image(path) as picture:
            mode, size = picture.mode, picture.size
            numbers = np.asarray(picture) if mode in _MODES and size == (width, height) else None
    except Exception as error:  # as Pillow's readers raise them
        raise ValueError(f"cannot be read: {' '.join(str(error).split())}") from error
    if mode not in _MODES:
        raise ValueError(
            f"has the colours {mode}; a label image has one channel, the numbers of objects"
        )
    if numbers is None:
        raise ValueError(f"has {size[0]} x {size[1]} pixels, its image has {width} x {height}")
    if (numbers < 0).any():
        raise ValueError(f"has the number {numbers.min()}; objects count from 1, background is 0")
    return numbers.astype(np.int64)


def _objects_of(
    rles: Mapping[int, dict],
    label: str,
    name_of: Callable[[str, int], str | None],
    image: str,
    problems: Problems,
) -> Iterator[LabelledObject]:
    for number, rle in rles.items():
        name = name_of(label, number)
        if name is None:
            problems.add(UNKNOWN_CLASS, label, f"has the number {number}, which has no name", image)
        else:
            yield LabelledObject(name, rle, label, f"number {number}")


def rles_of(numbers: np.ndarray) -> dict[int, dict]:
    """The mask of each number above 0 of an (H, W) array, as COCO's compressed RLE.

    All at once, from the runs of equal numbers in the order of columns.
    """
    height, width = numbers.shape
    flat = numbers.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    values, firsts = np.unique(flat[starts][order], return_index=True)
    rles = {}
    for value, runs in zip(values.tolist(), np.split(order, firsts[1:])):
        if value > 0:
            edges = np.stack([starts[runs], ends[runs]], 1).ravel()
            counts = np.diff(edges, prepend=0, append=flat.size).tolist()
            rle = {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}
            rles[value] = as_text(mask_util.frPyObjects(rle, height, width))
    return rles


def _find_parts(
    numbers: np.ndarray, present: set[int], label: str, image: str, problems: Problems
) -> None:
    """Say where one number, such as 255, stands for objects that may be many."""
    if present in _YES:
        num_parts = cv2.connectedComponents((numbers > 0).astype(np.uint8))[0] - 1
        if num_parts > 1:
            text = f"the number {numbers.max()} is in {num_parts} parts"
            problems.add(ONE_ID, label, text, image)


def _find_void(numbers: Iterable[int], label: str, image: str, problems: Problems) -> None:
    """Say where 255 is the largest of several numbers, but does not go on from the others."""
    *others, last = sorted(numbers) or [0]
    if last == _VOID and others and others[-1] < _VOID - 1:
        text = f"has the number {_VOID}, and beside it {others[-1]} at most"
        problems.add(VOID, label, text, image)
