"""Which format a data set has; all become COCO's JSON, where the images lie."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..data.coco_folder import SPLITS, find_coco, has_coco, is_run
from ..data.findings import Findings
from ..data.whole_files import whole_file
from . import label_images, labelme, yolo
from .image_files import folder_name, read_sizes
from .labels import Item, LabelledObject, Layout, Picture, to_coco
from .problems import EMPTY, SHARED_LABELS, Problems

_FindLayout = Callable[[str, Problems], Layout]
_FORMATS: dict[str, tuple[Callable[[Path], bool], _FindLayout]] = {
    "YOLO's data.yaml": (yolo.is_yolo, yolo.find_layout),
    "LabelMe's JSON files": (labelme.is_labelme, labelme.find_layout),
    "label images": (label_images.is_label_images, label_images.find_layout),
}


class Split(NamedTuple):
    """A part of a data set, in COCO's format.

    Attributes:
        name: "train", "val" or "test"; of a data set in one part, its own or its folder's.
        json_file: absolute or relative to the working directory, as `image_root`.
        image_root: what the JSON's file names are relative to.
    """

    name: str
    json_file: str
    image_root: str


def read_data(
    data: str,
    work_dir: str | None = None,
    *,
    findings: Findings | None = None,
    classes: Callable[[], Sequence[str]] = tuple,
) -> list[Split]:
    """The parts of a data set in any of the formats, as COCO's JSON files.

    Args:
        data: a folder in COCO's format (JSON files in it, in "annotations", or in folders of parts
            as Roboflow's), in YOLO's (data.yaml), in LabelMe's (a JSON an image), or with label
            images ("images" and "masks"); or JSON:IMAGE_FOLDER, a *.json, a *.yaml.
        work_dir: where JSON files are written for other formats than COCO's, in "annotations".
            None for a folder that lives as long as the process.
        findings: get all problems of label files, and what has some is left out. Without, an error
            is raised, and warnings are logged.
        classes: gives those that are known, of a model or of other parts. Data in formats other
            than COCO's have these, in this order, if all of their own are among them.

    Returns:
        "train", "val" and "test", those that are there, or one part. Nothing is copied.

    Raises:
        FileNotFoundError: there is no such data, or nothing is recognised. One line.
        ValueError: more than one format is recognised, or a file is malformed. One line.
    """
    problems = Problems(findings)
    find_layout = _choose(data)
    if find_layout is None:
        return [Split(*found) for found in find_coco(data)]
    layout = find_layout(data, problems)
    return _write(data, layout, Path(work_dir or _temporary(data)), problems, classes)


def choose_held_out(splits: Sequence[Split]) -> Split:
    """The part to evaluate on: "val", else "test", else the only one."""
    by_name = {split.name: split for split in splits}
    for name in ("val", "test"):
        if name in by_name:
            return by_name[name]
    return splits[0]


def _choose(data: str) -> _FindLayout | None:
    """What reads the data; None for COCO's format."""
    if not os.path.isdir(data):
        is_yaml = data.lower().endswith((".yaml", ".yml")) and os.path.isfile(data)
        return yolo.find_layout if is_yaml else None
    found: dict[str, _FindLayout | None] = {"COCO's JSON": None} if has_coco(data) else {}
    found |= {name: find for name, (fits, find) in _FORMATS.items() if fits(Path(data))}
    if not found:
        others = sorted(Path(data).glob("*.json"))
        more = f"; {others[0]} is none of these" if others else ""
        if is_run(data):
            more = "; it is the output of a training: name JSON:IMAGE_FOLDER"
        raise FileNotFoundError(
            f"no annotations are recognised in {data}: there is no COCO JSON (*.json,"
            " annotations/*.json), no data.yaml of YOLO's, no LabelMe JSON an image, and no images/"
            f" with label images in masks/{more}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{data} has {' and '.join(found)}; name the file that is meant (JSON:IMAGE_FOLDER or"
            " data.yaml), or move the others away"
        )
    return next(iter(found.values()))


def _write(
    data: str,
    layout: Layout,
    folder: Path,
    problems: Problems,
    find_known: Callable[[], Sequence[str]],
) -> list[Split]:
    _find_shared_labels(layout, problems)
    found = [(name, layout.parts[name]) for name in sorted(layout.parts, key=_order)]
    parts = {name: (items, _root_of(items)) for name, items in found if items}
    pictures = {
        name: _read_pictures(data, items, root, layout, problems)
        for name, (items, root) in parts.items()
    }
    objects = (x for part in pictures.values() for picture in part for x in picture.objects)
    classes = layout.classes or sorted({obj.name for obj in objects})
    if not parts or not classes:
        problems.add(EMPTY, data, f"has no {'annotated objects' if parts else 'images'}")
        problems.conclude()
        return []
    known = find_known()
    classes = list(known) if set(classes) <= set(known) else classes
    contents = {name: to_coco(part, classes, problems) for name, part in pictures.items()}
    problems.conclude()
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    splits = []
    for name, content in contents.items():
        path = folder / "annotations" / f"{name}.json"
        write_json(path, content)
        splits.append(Split(name, str(path), parts[name][1]))
    return splits


def _order(name: str) -> tuple[int, str]:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS), name


def _read_pictures(
    data: str, items: list[Item], root: str, layout: Layout, problems: Problems
) -> list[Picture]:
    paths = [item.image for item in items]
    with tqdm(total=len(paths), unit="image", disable=None, leave=False) as bar:
        sizes = read_sizes(paths, data, problems, bar.update)
    pictures = []
    for item, facts in zip(tqdm(items, unit="image", disable=None, leave=False), sizes):
        if not facts.problem:
            objects = list[LabelledObject](layout.read(item, facts.height, facts.width))
            name = os.path.relpath(item.image, root)
            pictures.append(Picture(name, facts.height, facts.width, objects))
    return pictures


def _find_shared_labels(layout: Layout, problems: Problems) -> None:
    first: dict[str, str] = {}
    for item in (item for part in layout.parts.values() for item in part if item.labels):
        other = first.setdefault(item.labels[0], item.image)
        if other != item.image:
            problems.add(SHARED_LABELS, item.labels[0], f"is of {other}, and of {item.image}")


def _root_of(items: list[Item]) -> str:
    """The folder that all images are in, or in folders of."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(item.image)) for item in items])


def write_json(path: Path, content: dict) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(content, separators=(",", ":")))


def _temporary(data: str) -> str:
    folder = tempfile.mkdtemp(prefix="queryinst-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return os.path.join(folder, folder_name(data))
