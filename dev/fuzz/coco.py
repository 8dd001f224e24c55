"""COCO JSON: annotations that training and evaluation use, predictions that a report reads."""

import functools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from queryinst.data.checks import check_datasets
from queryinst.data.mapper import build_mapper
from queryinst.engine.evaluation import build_evaluator
from queryinst.report.make_report import make_report
from queryinst.report.objects import build_scenes
from queryinst.report.pictures import draw_pair
from queryinst.testing import tiny_cfg

from . import hostile, tiny_data
from .outcomes import WrongResultError

_PREDICTIONS = f"inference/{tiny_data.NAME}/coco_instances_results.json"
# What a report reads besides the annotations, and how often each is mutated.
_RUN_FILES = {_PREDICTIONS: 8, "results.json": 2, "metrics.json": 2, "config.yaml": 1}
_SIZES: list[Any] = [[0, 0], [-1, -1], [24, 33], [100000, 100000], [2**31, 2], [2**32, 2**32], [24]]
_SIZES += [[24, 32, 1], "24x32", None, [24.0, 32.0], [24, "32"], [10**400, 1], [float("nan")] * 2]
_RLE_LETTERS = "".join(map(chr, range(48, 112)))
_IDS: list[Any] = [
    0,
    -1,
    2**63,
    10**400,
    "1",
    "",
    None,
    1.0,
    1.5,
    True,
    [1],
    {"a": 1},
    float("nan"),
]
_COORDINATES: list[Any] = [-1, 1e4, 1e6, 1e9, -1e9, 1e18, 1e300, float("nan"), float("inf"), "5"]
_COORDINATES += [None, 10**400, [1], 2**31, -(2**31), 2**53, True]


class CocoJson:
    """COCO JSON; `processes.Kind` says what the methods are for."""

    name = "coco"

    def prepare(self, folder: Path) -> None:
        tiny_data.write_data(folder)
        self._folder = folder
        self._cfg = _cfg()
        for file in _RUN_FILES:
            _valid_text(file)
        self._masks = _masks_by_image(self._cfg)

    def draw(self, seed: int) -> dict[str, Any]:
        rng = random.Random(f"coco {seed}")
        file = tiny_data.JSON
        if rng.random() < 0.2:
            file = rng.choices(list(_RUN_FILES), list(_RUN_FILES.values()))[0]
        content = _content(file)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _mutate(content, rng, file)
        text = _to_text(content, file)
        if rng.random() < 0.1:
            data = text.encode("utf-8", "surrogatepass")
            data = hostile.edit_bytes(data, hostile.draw_byte_edit(rng))
            text = data.decode("utf-8", "surrogateescape")
        return {"file": file, "text": text}

    def names(self) -> Sequence[str]:
        files = [Path(name).name for name in (tiny_data.JSON, *_RUN_FILES)]
        return [*files, tiny_data.NAME, *(f"{number}.png" for number in range(4))]

    def run(self, given: dict[str, Any], folder: Path) -> None:
        text = given["text"] if "text" in given else _with_value(**given)
        data = hostile.expand(text).encode("utf-8", "surrogateescape")
        if given["file"] == tiny_data.JSON:
            (folder / tiny_data.JSON).write_bytes(data)
            tiny_data.register(folder / tiny_data.JSON, self._folder / tiny_data.IMAGES)
            self._use_annotations(data, folder)
        else:
            tiny_data.register(self._folder / tiny_data.JSON, self._folder / tiny_data.IMAGES)
            _report_on(given["file"], data, folder)

    def _use_annotations(self, data: bytes, folder: Path) -> None:
        """Check, then all that uses annotations: the mapper, the evaluation and the report."""
        cfg = self._cfg.clone()
        cfg.OUTPUT_DIR = str(folder)
        check_datasets(cfg, training=True)
        masks = _masks_by_image(cfg)
        for file_name, expected in self._untouched_masks(json.loads(data)):
            if not expected <= masks.get(file_name, set()):
                raise WrongResultError(f"masks of {file_name} that the file has are missing")
        evaluator = build_evaluator(cfg, tiny_data.NAME)
        evaluator.reset()
        for image in DatasetCatalog.get(tiny_data.NAME):
            if (image["height"], image["width"]) == (tiny_data.HEIGHT, tiny_data.WIDTH):
                evaluator.process([image], [{"instances": tiny_data.detections()}])
        evaluator.evaluate()
        predictions, limit = tiny_data.predictions(), cfg.INPUT.MAX_PIXELS
        scenes, names = build_scenes(tiny_data.NAME, predictions, "predictions", limit)
        draw_pair(scenes[0], names, limit)

    def _untouched_masks(self, content: dict[str, Any]) -> Iterator[tuple[str, set[bytes]]]:
        """(file, masks that it must have) of each image all of whose entries are as they were."""
        original = tiny_data.annotations()
        for image in original["images"]:
            entries = [a for a in original["annotations"] if a["image_id"] == image["id"]]
            present = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            if image in content["images"] and json.dumps(entries) == json.dumps(present):
                yield image["file_name"], self._masks[image["file_name"]]


def _cfg() -> CfgNode:
    cfg = tiny_cfg(DATASETS__TRAIN=(tiny_data.NAME,), DATASETS__TEST=(tiny_data.NAME,))
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (tiny_data.HEIGHT,), "none"
    return cfg


def _masks_by_image(cfg: CfgNode) -> dict[str, set[bytes]]:
    """The masks that the training mapper draws for each image, by the file's name."""
    mapper = build_mapper(cfg, is_train=True)
    masks = {}
    for image in DatasetCatalog.get(tiny_data.NAME):
        instances = mapper(image)["instances"]
        drawn = {mask.numpy().tobytes() for mask in instances.gt_masks.tensor}
        masks[Path(image["file_name"]).name] = drawn
    return masks


def _content(file: str) -> Any:
    """The valid content of a file."""
    if file == tiny_data.JSON:
        return tiny_data.annotations()
    if file == _PREDICTIONS:
        return tiny_data.predictions()
    if file == "results.json":
        scores = {"AP": 12.5, "AP50": 20.0, "AP75": None, "AP-cat": 3.0}
        return {tiny_data.NAME: {"bbox": scores, "segm": dict(scores)}}
    if file == "metrics.json":
        return [
            {"iteration": i, "total_loss": 9.0 - i, "lr": 0.1, "loss_cls_stage0": 1.5}
            | ({f"{tiny_data.NAME}/segm/AP": 3.0, "segm/AP": 3.0} if i == 3 else {})
            for i in range(4)
        ]
    cfg = _cfg()
    parts = {name: cfg[name] for name in ("SOLVER", "INPUT", "DATASETS", "SEED")}
    model = {name: cfg.MODEL[name] for name in ("QUERYINST", "ROI_HEADS", "WEIGHTS", "DEVICE")}
    return yaml.safe_load(CfgNode({**parts, "MODEL": model}).dump())


@functools.cache
def _valid_text(file: str) -> str:
    return _to_text(_content(file), file)


def _to_text(content: Any, file: str) -> str:
    if file == "config.yaml":
        return yaml.safe_dump(content)
    if file == "metrics.json" and isinstance(content, list):
        return "".join(f"{json.dumps(line)}\n" for line in content)
    return json.dumps(content)


def _with_value(file: str, keys: Sequence[Any], value: Any = ...) -> str:
    """The valid file with one other value, or without it: the short form of an input."""
    content = node = _content(file)
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return _to_text(content, file)


def _report_on(file: str, data: bytes, folder: Path) -> None:
    """Make the report of a run whose files are valid but for one."""
    for name in _RUN_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_valid_text(name))
    (folder / file).write_bytes(data)
    make_report(str(folder), num_images=4)


def _mutate(content: Any, rng: random.Random, file: str) -> None:
    """One mutation; mostly of what is a number in C."""
    objects = content.get("annotations") if file == tiny_data.JSON else content
    targeted = file in (tiny_data.JSON, _PREDICTIONS) and isinstance(objects, list)
    objects = [obj for obj in objects if isinstance(obj, dict)] if targeted else []
    if objects and rng.random() < 0.55:
        _mutate_object(rng.choice(objects), rng)
    elif content:
        hostile.mutate_tree(content, rng)


def _mutate_object(obj: dict[str, Any], rng: random.Random) -> None:
    """Change the mask, the box or an id of an annotation or prediction."""
    if rng.random() < 0.3:
        obj[rng.choice(("id", "image_id", "category_id", "iscrowd", "area"))] = rng.choice(_IDS)
    elif rng.random() < 0.2:
        obj["bbox"] = _mutate_numbers(obj.get("bbox"), rng)
    elif isinstance(obj.get("segmentation"), dict):
        _mutate_rle(obj["segmentation"], rng)
    elif isinstance(obj.get("segmentation"), list) and obj["segmentation"]:
        place = rng.randrange(len(obj["segmentation"]))
        obj["segmentation"][place] = _mutate_numbers(obj["segmentation"][place], rng)


def _mutate_numbers(numbers: Any, rng: random.Random) -> Any:
    """Coordinates of a box or a polygon with some that are hostile, or of another length."""
    if not isinstance(numbers, list) or not numbers:
        return [1, 1, 5, 1, 5, 5]
    changed = list(numbers)
    for _ in range(rng.choice((1, 1, 2, len(changed)))):
        changed[rng.randrange(len(changed))] = rng.choice(_COORDINATES)
    return rng.choice([changed, changed, changed, numbers[:-1], numbers * 50, []])


def _mutate_rle(rle: dict[str, Any], rng: random.Random) -> None:
    if rng.random() < 0.25:
        rle["size"] = rng.choice(_SIZES)
        return
    counts = rle.get("counts")
    if isinstance(counts, list):
        rle["counts"] = rng.choice([_mutate_numbers(counts, rng), counts + [0], [1, 2, 765]])
        return
    noise = "".join(rng.choice(_RLE_LETTERS) for _ in range(rng.choice((1, 5, 40, 2000))))
    text = counts if isinstance(counts, str) else ""
    cut = rng.randrange(len(text) + 1)
    mixed = [text[:cut] + noise, text[:cut] + noise + text[cut:], text[:cut], noise, text + text]
    mixed += [text[:cut] + chr(rng.randrange(1, 300)) + text[cut:], "o" * len(noise), "é" * 5]
    rle["counts"] = rng.choice(mixed)
