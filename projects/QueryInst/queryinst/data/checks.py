"""Checks of the data before training starts."""

import difflib
import importlib.util
import logging
import os
import re
import sys
from collections import deque
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..wording import counted
from .coco_check import check_coco_file
from .dict_checks import check_conversion, check_dicts, load_dicts
from .findings import Findings
from .image_check import ImageEntry, check_image_files
from .mask_bounds import shorten
from .set_checks import Use

logger = logging.getLogger(__name__)

_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://"
)  # at the beginning; a folder before it makes it a file
_MAX_WORKERS = 16  # processes that read headers of images
# Packages that read published data sets, by evaluator type. They are slow and strict: only files
# and classes of these data sets are checked, not annotations.
_PACKAGES = {"lvis": "lvis", "cityscapes_instance": "cityscapesscripts"}


class _Named(NamedTuple):
    """How a run names and uses a data set."""

    key: str  # where the configuration names it first
    trained: bool
    evaluated: bool


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check the data sets of a run: their files, classes, annotations, and images' headers.

    Reads a data set in COCO's format from its JSON, any other from its registered function. Keeps
    nothing that it loads. Warnings are logged, each kind in one line.

    Args:
        training: check ``DATASETS.TRAIN`` and ``DATASETS.TEST`` (may be empty); otherwise only
            ``DATASETS.TEST``.

    Raises:
        ValueError, FileNotFoundError, ImportError: the first error, in one line.
    """
    uses = _collect_uses(cfg, training)
    for name, use in uses.items():
        _check_registered(name, use.key)
    for name in uses:
        _check_paths(name)
    known = {x: MetadataCatalog.get(x).get("thing_classes") for x in uses}
    _check_classes(cfg, known, uses)
    findings, classes = Findings(), {}
    for name, use in uses.items():
        logger.info(f"Checking the data set {name!r}")
        classes[name] = _check_content(cfg, name, _use_of(cfg, use, training), findings)
    raise_errors(findings)
    _check_classes(cfg, classes, uses)
    log_warnings(findings)


def _use_of(cfg: CfgNode, use: _Named, training: bool) -> Use:
    """Of images with many objects the evaluator warns; before a training it is time to."""
    return Use(
        use.trained,
        use.evaluated,
        masks=cfg.MODEL.MASK_ON,
        num_queries=cfg.MODEL.QUERYINST.NUM_QUERIES if training else None,
        detections=cfg.TEST.DETECTIONS_PER_IMAGE if training else sys.maxsize,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        max_pixels=cfg.INPUT.MAX_PIXELS,
    )


def _check_classes(
    cfg: CfgNode, classes: dict[str, list[str] | None], uses: dict[str, _Named]
) -> None:
    """What differs between the data sets comes first: NUM_CLASSES cannot fit both."""
    _check_same_classes(classes, uses)
    for name, names in classes.items():
        _check_class_count(cfg, name, names, any(use.trained for use in uses.values()))


def check_annotations(name: str, max_pixels: int) -> None:
    """Check a registered data set's ground truth for what compares predictions with it.

    Args:
        max_pixels: an image has at most; INPUT.MAX_PIXELS.

    Raises:
        ValueError, OSError: the first error, in one line.
    """
    metadata, findings = MetadataCatalog.get(name), Findings()
    num_classes = len(metadata.get("thing_classes", ()))
    use = Use(False, True, False, None, sys.maxsize, num_classes, max_pixels)
    if is_coco(name):
        check_coco_file(str(metadata.json_file), "", findings, use)
    else:
        check_dicts(load_dicts(name), name, findings=findings, use=use)
    raise_errors(findings)


def raise_errors(findings: Findings) -> None:
    """Raise the first error, in one line that says how many more there are.

    Raises:
        FileNotFoundError: the first is a missing image.
        ValueError: it is another.
    """
    num = findings.count("error")
    if not num:
        return
    group = next(findings.groups("error"))
    more = f" ({num - 1} more error{'s' * (num > 2)}: `queryinst data check` lists all)" * (num > 1)
    text = f"{group.examples[0].line}; {group.kind.advice}{more}"
    raise FileNotFoundError(text) if group.kind.name == "image-missing" else ValueError(text)


def log_warnings(findings: Findings) -> None:
    """Log one line for each kind of warning."""
    for group in findings.groups("warning"):
        kind, first = group.kind, group.examples[0]
        logger.warning(f"{group.count} x {kind.title}; first {first.line}. To do: {kind.advice}")


def _collect_uses(cfg: CfgNode, training: bool) -> dict[str, _Named]:
    train = tuple(cfg.DATASETS.TRAIN) if training else ()
    test = tuple(cfg.DATASETS.TEST)
    if training and not train:
        raise ValueError("DATASETS.TRAIN is empty: name at least one registered data set")
    if not training and not test:
        raise ValueError("DATASETS.TEST is empty: name at least one data set to evaluate on")
    return {
        name: _Named(
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


def _check_class_count(
    cfg: CfgNode, name: str, thing_classes: list[str] | None, training: bool
) -> None:
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if thing_classes is None or len(thing_classes) == num_classes:
        return
    advice = f"set MODEL.ROI_HEADS.NUM_CLASSES {len(thing_classes)}"
    if not training:  # the weights have so many
        advice = "list all classes of the model in it, in their order, those without objects too"
    raise ValueError(
        f"data set {name!r} has {_say_classes(thing_classes)}, but "
        f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}; {advice}"
    )


def _say_classes(names: list[str]) -> str:
    first = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{counted(len(names), 'class', 'classes')} ({first})"


def _check_same_classes(classes: dict[str, list[str] | None], uses: dict[str, _Named]) -> None:
    known = [(name, names) for name, names in classes.items() if names is not None]
    for name, names in known[1:]:
        first_name, first_names = known[0]
        if len(names) != len(first_names):
            few, many = sorted((set(names), set(first_names)), key=len)
            missing = ", ".join(map(repr, sorted(many - few)[:3])) or "none"
            raise ValueError(
                f"data set {name!r} ({uses[name].key}) has {_say_classes(names)}, {first_name!r} "
                f"({uses[first_name].key}) {_say_classes(first_names)}; list the same categories "
                f"with the same ids in both (missing in one: {missing}), those without objects too"
            )
        for index, (expected, actual) in enumerate(zip(first_names, names)):
            if expected != actual:
                raise ValueError(
                    f"class {index} is {expected!r} in {first_name!r} ({uses[first_name].key}), "
                    f"but {actual!r} in {name!r} ({uses[name].key}); give both data sets the same "
                    "categories with the same order of ids"
                )


def _check_content(cfg: CfgNode, name: str, use: Use, findings: Findings) -> list[str] | None:
    """Check annotations and image files; returns the class names, or None if unknown."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") in _PACKAGES:
        return metadata.get("thing_classes")
    if is_coco(name):
        return _check_coco(name, use, findings)
    return _check_dicts(name, use, findings)


def is_coco(name: str) -> bool:
    """Whether a data set is read from a JSON of COCO's format."""
    metadata = MetadataCatalog.get(name)
    return metadata.get("evaluator_type") == "coco" and bool(metadata.get("json_file"))


def _check_coco(name: str, use: Use, findings: Findings) -> list[str] | None:
    metadata = MetadataCatalog.get(name)
    json_file, root = str(metadata.json_file), str(metadata.get("image_root") or "")
    content = check_coco_file(json_file, root, findings, use)
    if content is None or findings.count("error"):
        return None
    registered = metadata.get("thing_classes")
    if registered is not None and list(registered) != content.thing_classes:
        names = ", ".join(map(str, registered))
        raise ValueError(
            f"data set {name!r} was registered with the classes {names}, but 'categories' of "
            f"{json_file} are {', '.join(content.thing_classes)}"
        )
    entries, thing_classes = content.image_entries(root), content.thing_classes
    del content  # other processes would get a copy of it
    _check_files(name, entries, use, findings)
    return thing_classes


def _check_dicts(name: str, use: Use, findings: Findings) -> list[str] | None:
    dicts = load_dicts(name)
    thing_classes = MetadataCatalog.get(name).get("thing_classes")  # loading can set them
    if thing_classes is not None:
        use = use._replace(num_classes=len(thing_classes))
    if not isinstance(dicts, list):
        return thing_classes  # a torch Dataset, which only reading it would tell about
    valid = check_dicts(dicts, name, findings=findings, use=use)
    entries = [
        ImageEntry(str(x["file_name"]), x["width"], x["height"], x.get("image_id")) for x in valid
    ]
    _check_files(name, entries, use, findings)
    if use.evaluated and not findings.count("error"):
        check_conversion(name, findings)
    return thing_classes


def _check_files(name: str, entries: list[ImageEntry], use: Use, findings: Findings) -> None:
    """Read the headers of all files; those of remote ones take too long."""
    local = [entry for entry in entries if not _URL.match(entry.path)]
    checked = check_image_files(
        local,
        pixels=False,
        workers=min(_MAX_WORKERS, os.cpu_count() or 1),
        findings=findings,
        source=f"data set {name!r}",
        max_pixels=use.max_pixels,
    )
    deque(checked, maxlen=0)
