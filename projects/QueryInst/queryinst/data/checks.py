"""Checks of the data before training starts."""

import difflib
import importlib.util
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from .coco_json import read_coco_json
from .dict_checks import check_conversion, iterate_dicts, load_dicts
from .images import check_image_size, read_image
from .instance_checks import check_instances
from .mask_bounds import shorten

_NUM_FIRST_IMAGES = 5  # of each data set are read
# Packages that read published data sets, by evaluator type. They are slow and strict: only files
# and classes of these data sets are checked, not annotations.
_PACKAGES = {"lvis": "lvis", "cityscapes_instance": "cityscapesscripts"}


class _Use(NamedTuple):
    """How a run uses a data set."""

    key: str  # where the configuration names it first
    trained: bool
    evaluated: bool


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check the data sets of a run: their files, classes, annotations, and first images.

    Reads a data set in COCO's format from its JSON, any other from its registered function. Keeps
    nothing that it loads.

    Args:
        training: check ``DATASETS.TRAIN`` and ``DATASETS.TEST`` (may be empty); otherwise only
            ``DATASETS.TEST``.

    Raises:
        ValueError, FileNotFoundError, ImportError: the first problem, in one line.
    """
    uses = _collect_uses(cfg, training)
    for name, use in uses.items():
        _check_registered(name, use.key)
    for name in uses:
        _check_paths(name)
        _check_class_count(cfg, name, MetadataCatalog.get(name).get("thing_classes"))
    classes = {name: _check_content(cfg, name, use) for name, use in uses.items()}
    _check_same_classes(classes, uses)


def check_annotations(name: str, max_pixels: int) -> None:
    """Check a registered data set's ground truth for what compares predictions with it.

    Args:
        max_pixels: an image has at most; INPUT.MAX_PIXELS.

    Raises:
        ValueError, OSError: the first problem, in one line.
    """
    metadata = MetadataCatalog.get(name)
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]]
    if _is_coco(name):
        images, annotations, _ = read_coco_json(
            str(metadata.json_file), evaluated=True, max_pixels=max_pixels
        )
        pairs = ((annotation, images[annotation["image_id"]]) for annotation in annotations)
    else:
        pairs = iterate_dicts(
            load_dicts(name),
            name,
            trained=False,
            evaluated=True,
            num_classes=len(metadata.get("thing_classes", ())),
            max_pixels=max_pixels,
        )
    check_instances(pairs, name=name, masks=False, crowds=True)


def _collect_uses(cfg: CfgNode, training: bool) -> dict[str, _Use]:
    train = tuple(cfg.DATASETS.TRAIN) if training else ()
    test = tuple(cfg.DATASETS.TEST)
    if training and not train:
        raise ValueError("DATASETS.TRAIN is empty: name at least one registered data set")
    if not training and not test:
        raise ValueError("DATASETS.TEST is empty: name at least one data set to evaluate on")
    return {
        name: _Use(
            "DATASETS.TRAIN" if name in train else "DATASETS.TEST", name in train, name in test
        )
        for name in dict.fromkeys(train + test)
    }


def _check_registered(name: str, key: str) -> None:
    if name in DatasetCatalog:
        return
    near = difflib.get_close_matches(name, DatasetCatalog.keys(), n=3)
    advice = f"did you mean {' or '.join(map(repr, near))}" if near else "register it first"
    raise ValueError(f"{key} names {shorten(name)}, which is not a registered data set; {advice}")


def _check_paths(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    package = _PACKAGES.get(metadata.get("evaluator_type"))
    if package and importlib.util.find_spec(package) is None:
        raise ImportError(f"data set {name!r} needs the package {package}: pip install {package}")
    for key, exists, what in (
        ("json_file", PathManager.isfile, "annotation file"),
        ("image_root", PathManager.isdir, "image folder"),
        ("image_dir", PathManager.isdir, "image folder"),
        ("gt_dir", PathManager.isdir, "annotation folder"),
    ):
        path = str(metadata.get(key) or "")
        if path and "://" not in path and not exists(path):
            raise FileNotFoundError(_say_missing(f"{what} {path}", name))


def _say_missing(what: str, name: str) -> str:
    return (
        f"{what} of data set {name!r} does not exist (working directory {os.getcwd()}); put it "
        "there, or set the environment variable DETECTRON2_DATASETS to the folder of your data sets"
    )


def _check_class_count(cfg: CfgNode, name: str, thing_classes: list[str] | None) -> None:
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if thing_classes is None or len(thing_classes) == num_classes:
        return
    first = ", ".join(map(str, thing_classes[:3])) + (", ..." if len(thing_classes) > 3 else "")
    raise ValueError(
        f"data set {name!r} has {len(thing_classes)} classes ({first}), but "
        f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}; set MODEL.ROI_HEADS.NUM_CLASSES "
        f"{len(thing_classes)}"
    )


def _check_same_classes(classes: dict[str, list[str] | None], uses: dict[str, _Use]) -> None:
    known = [(name, names) for name, names in classes.items() if names is not None]
    for name, names in known[1:]:
        first_name, first_names = known[0]
        for index, (expected, actual) in enumerate(zip(first_names, names)):
            if expected != actual:
                raise ValueError(
                    f"class {index} is {expected!r} in {first_name!r} ({uses[first_name].key}), "
                    f"but {actual!r} in {name!r} ({uses[name].key}); give both data sets the same "
                    "categories with the same order of ids"
                )


def _check_content(cfg: CfgNode, name: str, use: _Use) -> list[str] | None:
    """Check annotations and first images; returns the class names, or None if unknown."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") in _PACKAGES:
        return metadata.get("thing_classes")
    if _is_coco(name):
        return _check_coco(cfg, name, use)
    return _check_dicts(cfg, name, use)


def _is_coco(name: str) -> bool:
    """Whether a data set is read from a JSON of COCO's format."""
    metadata = MetadataCatalog.get(name)
    return metadata.get("evaluator_type") == "coco" and bool(metadata.get("json_file"))


def _check_coco(cfg: CfgNode, name: str, use: _Use) -> list[str]:
    metadata = MetadataCatalog.get(name)
    json_file = str(metadata.json_file)
    content = read_coco_json(json_file, evaluated=use.evaluated, max_pixels=cfg.INPUT.MAX_PIXELS)
    registered = metadata.get("thing_classes")
    if registered is not None and list(registered) != content.thing_classes:
        names = ", ".join(map(str, registered))
        raise ValueError(
            f"data set {name!r} was registered with the classes {names}, but 'categories' of "
            f"{json_file} are {', '.join(content.thing_classes)}"
        )
    _check_class_count(cfg, name, content.thing_classes)
    num_instances = check_instances(
        (
            (annotation, content.images[annotation["image_id"]])
            for annotation in content.annotations
        ),
        name=name,
        masks=cfg.MODEL.MASK_ON,
        crowds=use.evaluated,
    )
    _check_some_instances(name, use, len(content.images), num_instances)
    images = [content.images[id_] for id_ in sorted(content.images)[:_NUM_FIRST_IMAGES]]
    root = str(metadata.get("image_root") or "")
    _check_first_images(
        cfg,
        name,
        [{**image, "file_name": os.path.join(root, image["file_name"])} for image in images],
    )
    return content.thing_classes


def _check_dicts(cfg: CfgNode, name: str, use: _Use) -> list[str] | None:
    dicts = load_dicts(name)
    thing_classes = MetadataCatalog.get(name).get("thing_classes")  # loading can set them
    _check_class_count(cfg, name, thing_classes)
    if not isinstance(dicts, list):
        return thing_classes  # a torch Dataset, which only reading it would tell about
    num_instances = check_instances(
        iterate_dicts(
            dicts,
            name,
            trained=use.trained,
            evaluated=use.evaluated,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            max_pixels=cfg.INPUT.MAX_PIXELS,
        ),
        name=name,
        masks=cfg.MODEL.MASK_ON,
        crowds=use.evaluated,
    )
    _check_some_instances(name, use, len(dicts), num_instances)
    _check_first_images(cfg, name, dicts[:_NUM_FIRST_IMAGES])
    if use.evaluated:
        check_conversion(name)
    return thing_classes


def _check_some_instances(name: str, use: _Use, num_images: int, num_instances: int) -> None:
    if num_images == 0:
        raise ValueError(f"data set {name!r} ({use.key}) has no images")
    if use.trained and num_instances == 0:
        raise ValueError(
            f"data set {name!r} ({use.key}) has {num_images} images, but none with an instance to "
            "train on (crowds do not count)"
        )


def _check_first_images(cfg: CfgNode, name: str, images: list[dict[str, Any]]) -> None:
    """Read a few images: wrong folders, formats and sizes usually affect all."""
    for image in images:
        if not PathManager.isfile(str(image["file_name"])) and "://" not in str(image["file_name"]):
            raise FileNotFoundError(_say_missing(f"image {image['file_name']}", name))
        pixels = read_image(image["file_name"], cfg.INPUT.FORMAT, cfg.INPUT.MAX_PIXELS)
        check_image_size(dict(image), pixels)
