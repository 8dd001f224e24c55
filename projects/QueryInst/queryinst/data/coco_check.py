"""Finds all problems of a file in COCO's format that training and evaluation would have with it."""

import os
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from ..config import MAX_PIXELS
from ..json_files import parse_json
from . import problem_kinds as kinds
from .coco_json import Item, References, id_rules, index_items, is_usual_annotation_id
from .findings import Finding, Findings, Kind, ProblemError
from .image_check import ImageEntry
from .instance_checks import check_image_entry, is_text
from .mask_bounds import shorten, typed
from .set_checks import SetCheck, Use

BYTE_ORDER_MARK = "\ufeff"
_LISTS = ("images", "annotations", "categories")
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_CATEGORY_KEYS = ("id", "name")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_EVALUATION_KEYS = ("area", "iscrowd")  # without them pycocotools fails, after the training
MAX_CLASS_NAME = 256  # characters


class CocoContent(NamedTuple):
    """What of a file has no error.

    Attributes:
        images, categories: by their ids, in the order of the file.
        annotations: those of these images and categories.
    """

    images: dict[Any, Item]
    annotations: list[Item]
    categories: dict[Any, Item]

    @property
    def thing_classes(self) -> list[str]:
        """In the order of their ids, as Detectron2 numbers them."""
        return [self.categories[id_]["name"] for id_ in sorted(self.categories)]

    def image_entries(self, image_root: str) -> list[ImageEntry]:
        """What `check_image_files` takes."""
        return [
            ImageEntry(
                os.path.join(image_root, image["file_name"]),
                *(image["width"], image["height"], id_, image["file_name"]),
            )
            for id_, image in self.images.items()
        ]


def check_coco(
    json_file: str,
    image_root: str,
    *,
    findings: Findings,
    evaluated: bool = True,
    trained: bool = True,
    masks: bool = True,
    max_pixels: int = MAX_PIXELS,
    num_queries: int | None = None,
    detections: int = 100,
) -> CocoContent | None:
    """Add all problems of a file to `findings`; those of image files are `image_check`'s.

    Args:
        image_root: the folder of the images, whose files are not looked at here.
        evaluated: whether pycocotools evaluates on the file. If so, annotations need "area" and
            "iscrowd", and the file may have no "annotations" at all (COCO's test sets).
        trained: whether there must be an instance to train on.
        masks: whether each instance needs a mask, and if `evaluated` each crowd.
        max_pixels: an image has at most; INPUT.MAX_PIXELS.
        num_queries: objects of an image that the model can find; None if it is not known.
        detections: of an image that are kept.

    Returns:
        What of the file has no error; None if that is nothing.
    """
    use = Use(trained, evaluated, masks, num_queries, detections, 0, max_pixels)
    return check_coco_file(json_file, image_root, findings, use)


def check_coco_file(
    json_file: str, image_root: str, findings: Findings, use: Use
) -> CocoContent | None:
    """As `check_coco`."""
    content = read_coco(json_file, findings)
    if content is None:
        return None
    return check_coco_content(content, json_file, image_root, findings=findings, use=use)


def read_coco(json_file: str, findings: Findings) -> Any:
    """What is in a file of JSON; None, and a problem in `findings`, if that cannot be read."""
    try:
        with open(PathManager.get_local_path(json_file), encoding="utf-8") as file:
            text = file.read()
        if text.startswith(BYTE_ORDER_MARK):
            said = "is not valid JSON: line 1, column 1: Unexpected UTF-8 BOM (byte-order mark)"
            findings.add(kinds.BYTE_ORDER_MARK, Finding(json_file, said))
        return parse_json(text.removeprefix(BYTE_ORDER_MARK), json_file)
    except UnicodeDecodeError as error:
        said = f"is not valid JSON: not UTF-8 text ({error})"
    except (OSError, ValueError) as error:
        said = str(error).removeprefix(f"{json_file} ")
    findings.add(kinds.JSON, Finding(json_file, said))
    return None


def check_coco_content(
    content: Any, json_file: str, image_root: str, *, findings: Findings, use: Use
) -> CocoContent | None:
    """As `check_coco`, of what is in the file; it stays as it is."""
    if problem := _find_format_problem(content, use.evaluated):
        findings.add(kinds.FORMAT, Finding(json_file, problem))
        return None
    if "annotations" not in content:
        content = {**content, "annotations": []}
    check = _CocoCheck(content, json_file, findings, use)
    check.check_images(image_root)
    check.check_categories()
    annotations = check.check_annotations()
    if not check.images or not check.categories:
        return None
    return CocoContent(check.images, annotations, check.categories)


def _find_format_problem(content: Any, evaluated: bool) -> str:
    if not isinstance(content, dict):
        return (
            f"holds a {type(content).__name__}, not an object with {', '.join(_LISTS)} (a file of "
            "predictions?)"
        )
    for key in _LISTS:
        is_optional = key == "annotations" and evaluated and key not in content
        if not is_optional and not isinstance(content.get(key), list):
            return f"has no list {key!r}; COCO's format needs {', '.join(_LISTS)}"
    return ""


class _CocoCheck:
    """One file that has the three lists."""

    def __init__(self, content: Item, json_file: str, findings: Findings, use: Use):
        self.content, self.source, self.findings, self.use = content, json_file, findings, use
        self.rules = id_rules(use.evaluated)
        self.images: dict[Any, Item] = {}
        self.categories: dict[Any, Item] = {}
        self._listed: dict[Any, Item] = {}  # images by their ids, valid or not

    def _add(self, kind: Kind, message: str, image: Item | None = None) -> None:
        id_, name = (image["id"], str(image["file_name"])) if image else (None, "")
        self.findings.add(kind, Finding(self.source, message, id_, None, name))

    def _index(self, list_name: str, keys: tuple[str, ...], is_unique: bool = True) -> Any:
        rule, source = self.rules[list_name], self.source
        args = self.content, list_name, keys, rule, self.findings, source
        return index_items(*args, is_unique=is_unique)

    def check_images(self, image_root: str) -> None:
        found, _ = self._index("images", _IMAGE_KEYS)
        if not self.content["images"]:
            self._add(kinds.NO_IMAGES, "'images' is empty")
        self._listed = found
        names: dict[str, Any] = {}
        for id_, image in found.items():
            try:
                check_image_entry(image, self.use.max_pixels)
            except ProblemError as error:
                self._add(error.kind, f"image {shorten(id_)} has {error}", image)
                continue
            self.images[id_] = image
            path = os.path.normpath(os.path.join(image_root, image["file_name"]))
            first = names.setdefault(path, id_)
            if first is not id_:
                text = f"image {shorten(id_)} has the file {image['file_name']} of image"
                self._add(kinds.FILE_NAME_TWICE, f"{text} {shorten(first)}", image)

    def check_categories(self) -> None:
        found, _ = self._index("categories", _CATEGORY_KEYS)
        if not self.content["categories"]:
            self._add(kinds.NO_CATEGORIES, "'categories' is empty")
        names: dict[str, Any] = {}
        for id_, category in found.items():
            name = category["name"]
            if not is_text(name, MAX_CLASS_NAME):
                text = f"category {shorten(id_)} has the name {typed(name)}, which must be one line"
                text += f" of text of 1 to {MAX_CLASS_NAME} characters"
                self._add(kinds.CATEGORY_NAME, text)
            elif name in names:
                text = f"the categories {shorten(names[name])} and {shorten(id_)} have the same "
                self._add(kinds.CATEGORY_NAME_TWICE, f"{text}name {shorten(name)}")
            else:
                names[name] = id_
            self.categories[id_] = category

    def check_annotations(self) -> list[Item]:
        """Returns those without an error, of images that have none."""
        keys = _ANNOTATION_KEYS + (_EVALUATION_KEYS if self.use.evaluated else ())
        is_unique = "minival" not in self.source  # COCO 2014's own, which Detectron2 excepts too
        _, annotations = self._index("annotations", keys, is_unique)
        num_errors = len(self.content["annotations"]) - len(annotations)
        check, valid, num_unknown = SetCheck(self.source, self.findings, self.use), [], 0
        references = References(self.content, self._listed, self.categories, self.rules)
        for position, annotation in annotations:
            problems = [*references.find_problems(annotation)]
            for kind, text in problems:
                num_errors += kind.severity == "error"
                num_unknown += kind is kinds.IMAGE_ID_UNKNOWN
                self._report(kind, text, annotation, position)
            image = None if problems else self.images.get(annotation["image_id"])
            if image is None or annotation["category_id"] not in self.categories:
                num_errors += not problems  # that of the image or category
                continue
            if check.add(annotation, image, position, area=self.use.evaluated):
                valid.append(annotation)
            if not is_usual_annotation_id(annotation["id"]):
                text = f"has the id {typed(annotation['id'])}"
                check.report(kinds.ANNOTATION_ID_KIND, text, annotation, image, position)
        left_out = f"{num_unknown} of images that the file does not have" if num_unknown else ""
        check.finish("", len(self.images), left_out, num_errors)
        return valid

    def _report(self, kind: Kind, text: str, annotation: Item, position: int) -> None:
        message = f"annotation {shorten(annotation['id'])} has {text}"
        image_id = annotation["image_id"]
        is_known = self.rules["images"].is_id(image_id) and image_id in self.images
        name = str(self.images[image_id]["file_name"]) if is_known else ""
        finding = Finding(self.source, message, image_id, annotation["id"], name, position)
        self.findings.add(kind, finding)
