"""Configurations: files with and without a _BASE_, and options of the command line."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from queryinst.config import add_queryinst_config
from queryinst.data.checks import check_datasets
from queryinst.data.mapper import build_mapper
from queryinst.engine import setup_cfg
from queryinst.engine.amp import inference_autocast
from queryinst.engine.checks import check_output_dir, check_run
from queryinst.engine.setup import with_device
from queryinst.engine.steps import StepTrainer
from queryinst.engine.trainer import Trainer
from queryinst.testing import random_batch

from .. import ROOT
from . import hostile, tiny_data, yaml_texts
from .outcomes import WrongResultError

_CONFIGS = ROOT / "configs"
_TINY = _CONFIGS / "quick_schedules" / "queryinst_R_50_FPN_instant_test.yaml"
# Sections whose keys a step or a prediction reads.
_USED = ("MODEL", "SOLVER", "INPUT", "TEST")
_LARGEST_SIDE = 256  # pixels of an image that a step may take here


class Configurations:
    """Configurations; `processes.Kind` says what the methods are for."""

    name = "configuration"

    def prepare(self, folder: Path) -> None:
        tiny_data.write_data(folder)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(_tiny_keys()))
        self._tiny = folder / "tiny.yaml"
        self._usual = setup_cfg(str(self._tiny))

    def draw(self, seed: int) -> dict[str, Any]:
        rng = random.Random(f"configuration {seed}")
        given: dict[str, Any] = {"opts": [], "training": rng.random() < 0.8}
        draw = rng.choices((_draw_keys, _draw_opts, _draw_tree, _draw_text, _draw_attack), _ODDS)[0]
        draw(given, rng)
        return given

    def names(self) -> Sequence[str]:
        files = ("main.yaml", "other.yaml", "tiny.yaml", str(_CONFIGS), "/dev/", "detectron2._C")
        return (*files, "command line", "--config-file", "flags", "data set", "_BASE_")

    def run(self, given: dict[str, Any], folder: Path) -> None:
        for name in ("main.yaml", "other.yaml"):
            text = given.get(name, "_BASE_: @TINY@\n")
            (folder / name).write_bytes(self._fill(hostile.expand(text), folder))
        opts = [self._fill(word, folder).decode("utf-8", "replace") for word in given["opts"]]
        training = given["training"]
        cfg = setup_cfg("main.yaml", opts, weights=None if training else "w.pth")
        check_output_dir(cfg.OUTPUT_DIR)
        cfg = with_device(cfg, training=training)
        check_run(cfg, training=training)
        check_datasets(cfg, training=training)
        if any(cfg[section] != self._usual[section] for section in _USED):
            _use(cfg, training)

    def _fill(self, text: str, folder: Path) -> bytes:
        places = {"TINY": str(self._tiny), "MARK": str(folder / "executed"), "HERE": str(folder)}
        for name, place in {**places, "CONFIGS": str(_CONFIGS)}.items():
            text = text.replace(f"@{name}@", place)
        return text.encode("utf-8", "surrogateescape")


def _tiny_keys() -> dict[str, Any]:
    """The published recipe at the size of the instant test, on the tiny data."""
    keys = yaml.safe_load(_TINY.read_text())
    keys["_BASE_"] = str(_CONFIGS / "Base-QueryInst.yaml")
    keys["DATASETS"] = {"TRAIN": (tiny_data.NAME,), "TEST": (tiny_data.NAME,)}
    keys["OUTPUT_DIR"] = "output"
    return {**keys, "DATASETS": {key: list(value) for key, value in keys["DATASETS"].items()}}


def _use(cfg: CfgNode, training: bool) -> None:
    """Predict and, in training, take a step."""
    mapper = build_mapper(cfg, is_train=training)
    image = mapper(DatasetCatalog.get(tiny_data.NAME)[0])
    model = build_model(cfg)
    batch = random_batch((2, 1), num_classes=tiny_data.NUM_CLASSES)
    if max(image["image"].shape[1:]) <= _LARGEST_SIDE:
        batch = [image, batch[1]]
    with torch.no_grad(), inference_autocast(cfg):
        for result in model.eval().inference(batch):
            instances = result["instances"]
            if not (
                instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()
            ):
                raise WrongResultError("the predictions are not finite")
    if training:
        optimizer = Trainer.build_optimizer(cfg, model)
        Trainer.build_lr_scheduler(cfg, optimizer)
        trainer = StepTrainer(model.train(), [batch], optimizer, cfg)
        with EventStorage() as trainer.storage:
            trainer.iter = 0
            trainer.run_step()


def _all_keys(node: CfgNode, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    keys: dict[tuple[str, ...], Any] = {}
    for name, value in node.items():
        nested = isinstance(value, CfgNode)
        keys |= _all_keys(value, (*prefix, name)) if nested else {(*prefix, name): value}
    return keys


def _defaults() -> dict[tuple[str, ...], Any]:
    """Every key with the value of the published recipe."""
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.merge_from_file(str(_CONFIGS / "Base-QueryInst.yaml"))
    return _all_keys(cfg)


_DEFAULTS = _defaults()
_OWN = [key for key in _DEFAULTS if key[:2] == ("MODEL", "QUERYINST")]
_USED_KEYS = [key for key in _DEFAULTS if key[0] in ("SOLVER", "INPUT", "TEST", "DATALOADER")]
_USED_KEYS += [
    key
    for key in _DEFAULTS
    if key[1:2]
    and key[1] in ("RESNETS", "FPN", "BACKBONE", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
]


def _draw_key(rng: random.Random) -> tuple[str, ...]:
    return rng.choice(rng.choices((_OWN, _USED_KEYS, list(_DEFAULTS)), (3, 5, 2))[0])


def _draw_value(key: tuple[str, ...], rng: random.Random) -> Any:
    value = _DEFAULTS[key]
    value = list(value) if isinstance(value, tuple) else value
    drawn = hostile.hostile(rng) if rng.random() < 0.3 else hostile.near(value, rng)
    # A size that is large, but could be meant, is not a hostile one; to build it takes long.
    is_large = type(drawn) in (int, float) and (300 if key in _OWN else 64) < abs(drawn) < 10**6
    return 10**6 if is_large and key[0] == "MODEL" else drawn


def _draw_keys(given: dict[str, Any], rng: random.Random) -> None:
    """One to three keys with other values."""
    tree: dict[str, Any] = {"_BASE_": "@TINY@"}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *sections, name = key = _draw_key(rng)
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = _draw_value(key, rng)
    given["main.yaml"] = yaml_texts.to_yaml(tree)


def _draw_opts(given: dict[str, Any], rng: random.Random) -> None:
    """The same on the command line, or words that are no options at all."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = _draw_key(rng)
        given["opts"] += [".".join(key), str(_draw_value(key, rng))]
    if rng.random() < 0.3:
        place = rng.randrange(len(given["opts"]) + 1)
        given["opts"].insert(place, rng.choice(yaml_texts.WORDS))
    elif rng.random() < 0.3:
        given["opts"][-1] = rng.choice(yaml_texts.WORDS)
    given["opts"] = [hostile.expand(word) for word in given["opts"]]


def _draw_tree(given: dict[str, Any], rng: random.Random) -> None:
    """Another structure: keys that are missing, doubled, wrapped, or elsewhere."""
    tree = {**_tiny_keys(), "_BASE_": "@CONFIGS@/Base-QueryInst.yaml"}
    for _ in range(rng.choice((1, 1, 2, 3))):
        hostile.mutate_tree(tree, rng)
        tree = tree or {"_BASE_": "@TINY@"}
    given["main.yaml"] = yaml_texts.to_yaml(tree)


def _draw_text(given: dict[str, Any], rng: random.Random) -> None:
    """Damaged bytes of a published file."""
    paths = sorted(path for path in _CONFIGS.rglob("*.yaml") if path.parent != _CONFIGS)
    data = (_TINY if rng.random() < 0.5 else rng.choice(paths)).read_bytes()
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = hostile.edit_bytes(data, hostile.draw_byte_edit(rng))
    text = data.decode("utf-8", "surrogateescape")
    folders = {
        "../Base": "@CONFIGS@/Base",
        '"queryinst_R': '"@CONFIGS@/COCO-InstanceSegmentation/queryinst_R',
    }
    for old, new in folders.items():
        text = text.replace(old, new)
    given["main.yaml"] = text


def _draw_attack(given: dict[str, Any], rng: random.Random) -> None:
    """Yaml that runs code, reaches for the network, is endless, or is no mapping."""
    base = rng.choice(yaml_texts.BASES)
    key = _draw_key(rng)
    fragment = rng.choice(yaml_texts.FRAGMENTS)
    kind = rng.choice(("base", "fragment", "fragment", "document", "other"))
    if kind == "base":
        given["main.yaml"] = f"_BASE_: {base}\n"
        given["other.yaml"] = rng.choice(["_BASE_: main.yaml\n", "", "SEED: 3\n"])
        if rng.random() < 0.2:
            del given["main.yaml"]
            given["opts"] = ["_BASE_", base]
    elif kind == "fragment":
        given["main.yaml"] = "_BASE_: @TINY@\n" + yaml_texts.nested(key, fragment)
    elif kind == "document":
        given["main.yaml"] = rng.choice(yaml_texts.DOCUMENTS)
    else:
        given["main.yaml"] = "_BASE_: other.yaml\n"
        given["other.yaml"] = "_BASE_: @TINY@\n" + yaml_texts.nested(key, fragment)


_ODDS = (50, 18, 10, 10, 12)
