"""Checkpoints: what evaluation, training, --resume and prediction read."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor

from queryinst.checkpoint import QueryInstCheckpointer, build_meta, read_meta
from queryinst.engine.predictor import Predictor
from queryinst.engine.trainer import Trainer
from queryinst.testing import tiny_cfg

from . import checkpoint_files, hostile, yaml_texts
from .hostile_pickles import BODIES
from .outcomes import WrongResultError

# A file of few tensors is quick to write and to read.
_FEW_TENSORS: dict[str, Any] = {
    "MODEL__RESNETS__NORM": "",
    "MODEL__BACKBONE__FREEZE_AT": 5,
    "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "MODEL__QUERYINST__NUM_QUERIES": 4,
    "MODEL__QUERYINST__NUM_REG_FCS": 1,
}
State = Mapping[str, Tensor]
_ENTRIES = {"evaluate": 5, "train": 2, "resume": 2, "meta": 2, "predictor": 2}
_FORMATS = {"pth": 6, "legacy": 1, "pkl": 1, "safetensors": 3}
# Damage of these is not to be seen: they have no checksums.
_WITHOUT_CHECKSUMS = ("legacy", "pkl")
_OLDER, _NEWEST = "model_0000001.pth", "model_0000003.pth"


class Checkpoints:
    """Checkpoints; `processes.Kind` says what the methods are for."""

    name = "checkpoint"

    def prepare(self, folder: Path) -> None:
        torch.manual_seed(0)
        self._cfg = tiny_cfg(**_FEW_TENSORS)
        self._initial = _copy(build_model(self._cfg).state_dict())
        self._older, self._tree = (self._train(steps) for steps in (1, 3))
        self._data = {f: checkpoint_files.write(self._tree, f) for f in _FORMATS}
        self._older_data = checkpoint_files.write(self._older, "pth")
        self._model = build_model(self._cfg)

    def _train(self, iterations: int) -> dict[str, Any]:
        """What a run saves after so many iterations."""
        model = build_model(self._cfg)
        optimizer = Trainer.build_optimizer(self._cfg, model)
        scheduler = Trainer.build_lr_scheduler(self._cfg, optimizer)
        with torch.random.fork_rng():
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        meta = {**build_meta(self._cfg, None), "thing_classes": ["cat", "dog", "cow"]}
        states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        return {"model": model.state_dict(), "meta": meta, **states, "iteration": iterations}

    def draw(self, seed: int) -> dict[str, Any]:
        rng = random.Random(f"checkpoint {seed}")
        format = rng.choices(list(_FORMATS), list(_FORMATS.values()))[0]
        entry = rng.choices(list(_ENTRIES), list(_ENTRIES.values()))[0]
        given = {"format": format, "entry": entry, "edits": []}
        for _ in range(rng.choice((1, 1, 1, 2))):
            given["edits"].append(self._draw_edit(rng, format))
        if entry == "resume" and rng.random() < 0.2:
            given["tag"] = rng.choice(_TAGS)
        return given

    def _draw_edit(self, rng: random.Random, format: str) -> list[Any]:
        special = {"pth": ["zip", "zip", "pickle"], "safetensors": ["header", "header"]}
        kinds = ["bytes", "bytes", "content", "content", *special.get(format, ["pickle"])]
        kind = rng.choice(kinds)
        if kind == "bytes":
            return [kind, hostile.draw_byte_edit(rng)]
        if kind == "zip":
            return [kind, rng.choice(checkpoint_files.ZIP_EDITS), rng.random(), rng.randrange(1000)]
        if kind == "pickle":
            return [kind, rng.choice(list(BODIES))]
        if kind == "header":
            return [kind, *_draw_header_edit(rng, self._data[format])]
        return [kind, *_draw_content_edit(rng, self._tree)]

    def names(self) -> Sequence[str]:
        return ("w.pth", "w.pkl", "w.safetensors", "last_checkpoint", _OLDER, _NEWEST)

    def run(self, given: dict[str, Any], folder: Path) -> str:
        format, edits = given["format"], _fill(given["edits"], str(folder / "executed"))
        data = self._data[format]
        mark = str(folder / "executed")
        data = checkpoint_files.edited(data, self._tree, format, edits, mark)
        if given["entry"] == "resume":
            return self._resume(data, given.get("tag", _NEWEST), is_exact=_is_exact(given))
        path = f"w{checkpoint_files.FORMATS[format]}"
        Path(path).write_bytes(data)
        if given["entry"] == "meta":
            self._read_meta(path)
        elif given["entry"] == "predictor":
            model = Predictor.from_checkpoint(path).model
            self._compare(model.state_dict(), [self._tree["model"]], is_exact=_is_exact(given))
        else:
            self._load(path, given["entry"] == "train", is_exact=_is_exact(given))
        return ""

    def _load(self, path: str, training: bool, *, is_exact: bool) -> None:
        model = self._reset_model().train(training)
        try:
            QueryInstCheckpointer(model).load(path, checkpointables=[])
        except Exception:
            self._compare(model.state_dict(), [self._initial])
            raise
        known = [self._tree["model"]] + ([self._initial] if training else [])
        self._compare(model.state_dict(), known, mixed=training, is_exact=is_exact)

    def _resume(self, data: bytes, tag: str, *, is_exact: bool) -> str:
        """Resume a run whose newest checkpoint this is; why a warning must stand in the log."""
        run = Path("run")
        run.mkdir()
        (run / _OLDER).write_bytes(self._older_data)
        (run / _NEWEST).write_bytes(data)
        (run / "last_checkpoint").write_bytes(tag.encode("utf-8", "surrogateescape"))
        model = self._reset_model().train()
        optimizer = Trainer.build_optimizer(self._cfg, model)
        scheduler = Trainer.build_lr_scheduler(self._cfg, optimizer)
        states = {"optimizer": optimizer, "scheduler": scheduler}
        QueryInstCheckpointer(model, "run", **states).resume_or_load("", resume=True)
        state = model.state_dict()
        self._compare(state, [self._tree["model"], self._older["model"]], is_exact=is_exact)
        is_older = _equal(state, self._older["model"])
        return "the older checkpoint was taken in silence" if is_older and tag != _OLDER else ""

    def _read_meta(self, path: str) -> None:
        meta = read_meta(path)
        if meta is not None and not isinstance(meta, dict):
            raise WrongResultError(f"the meta is a {type(meta).__name__}")

    def _reset_model(self) -> torch.nn.Module:
        """A model with the initial weights; a new one if the last trial removed parts of it."""
        state = self._model.state_dict()
        if state.keys() != self._initial.keys():
            self._model = build_model(self._cfg)
            state = self._model.state_dict()
        with torch.no_grad():
            for name, value in self._initial.items():
                state[name].copy_(value)
        return self._model

    def _compare(
        self, state: State, known: Sequence[State], *, mixed: bool = False, is_exact: bool = True
    ) -> None:
        """Raise unless the state equals one of the known ones bit by bit, or a mixture of them."""
        if not is_exact:
            bad = [name for name, value in state.items() if not bool(value.isfinite().all())]
            if bad:
                raise WrongResultError(f"weights that are not finite: {bad[0]}")
        elif mixed:
            for name, value in state.items():
                if not any(torch.equal(value, other[name]) for other in known):
                    raise WrongResultError(f"weights that no file has: {name}")
        elif not any(_equal(state, other) for other in known):
            name = next(n for n, v in state.items() if not torch.equal(v, known[0][n]))
            raise WrongResultError(f"other weights than the file: {name}")


def _copy(state: State) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _equal(state: State, other: State) -> bool:
    """Bit by bit; an inference-only model has fewer, and counters of batches may be missing."""
    return state.keys() <= other.keys() and all(
        torch.equal(value, other[name])
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    )


def _is_exact(given: Mapping[str, Any]) -> bool:
    """Whether the file can tell that its weights are others than those that were written."""
    kinds = [edit[0] for edit in given["edits"]]
    if given["format"] == "safetensors":  # another edit may have taken the digest away
        return len(kinds) == 1 or "bytes" not in kinds and "header" not in kinds
    return "bytes" not in kinds or given["format"] not in _WITHOUT_CHECKSUMS


def _fill(value: Any, mark: str) -> Any:
    if isinstance(value, str):
        return value.replace("@MARK@", mark)
    return [_fill(item, mark) for item in value] if isinstance(value, list) else value


_TAGS = ["", "\n", _OLDER, f"{_NEWEST}\n", "nowhere.pth", ".", "..", "/", "\x00", "\udcff\udcfe"]
_TAGS += [f"../run/{_NEWEST}", "x" * 5000, "last_checkpoint", "http://example.com/x.pth", "é.pth"]
_CONFIGS: list[Any] = [5, None, [], {}, "", "x: [", "MODEL: 5", *yaml_texts.DOCUMENTS]
_VERSIONS: list[Any] = [
    None,
    "1",
    [1],
    {},
    2,
    10**30,
    -1,
    0,
    1.0,
    1.5,
    float("nan"),
    True,
    "tensor:nan",
]


def _draw_content_edit(rng: random.Random, tree: Mapping[str, Any]) -> list[Any]:
    section = rng.choices(("meta", "model", "rest"), (45, 30, 25))[0]
    if section == "meta":
        return _draw_meta_edit(rng, tree["meta"])
    if section == "model":
        return _draw_model_edit(rng, list(tree["model"]))
    keys: list[Any] = []
    node: Any = {key: value for key, value in tree.items() if key != "meta"}
    while isinstance(node, (dict, list)) and node and not (keys and rng.random() < 0.3):
        keys.append(rng.choice(list(node) if isinstance(node, dict) else range(len(node))))
        node = node[keys[-1]]
    return [keys, rng.choice(("set", "set", "remove", "rename")), _draw_value(rng)]


def _draw_meta_edit(rng: random.Random, meta: Mapping[str, Any]) -> list[Any]:
    name = rng.choice(["config", "format_version", "thing_classes", *meta])
    operation = rng.choice(("set", "set", "set", "set", "remove", "rename"))
    value = _draw_value(rng)
    if name == "config" and operation == "set":
        value = rng.choice([rng.choice(_CONFIGS), _edited_config(rng, meta["config"])])
    elif name == "format_version" and rng.random() < 0.7:
        value = rng.choice(_VERSIONS)
    elif name == "thing_classes" and rng.random() < 0.7:
        value = rng.choice(
            [5, None, [], "cat", ["a", "b"], [1, 2, 3], [None] * 3, {"a": 1}, [[]] * 3]
        )
    elif rng.random() < 0.1:
        return [["meta"], operation, value]
    return [["meta", name], operation, value]


def _edited_config(rng: random.Random, text: str) -> str:
    """The configuration's text with a hostile value, or damaged."""
    lines = text.splitlines()
    if rng.random() < 0.6:
        index = rng.randrange(len(lines))
        key, colon, _ = lines[index].partition(":")
        lines[index] = f"{key}{colon} {rng.choice(yaml_texts.FRAGMENTS)}"
        return "\n".join(lines)
    data = hostile.edit_bytes(text.encode(), hostile.draw_byte_edit(rng))
    return data.decode("utf-8", "replace")


def _draw_model_edit(rng: random.Random, names: list[str]) -> list[Any]:
    if rng.random() < 0.1:
        return [["model"], rng.choice(("set", "remove", "rename")), _draw_value(rng)]
    operation = rng.choice(("set", "set", "set", "remove", "rename", "add"))
    value = _draw_value(rng)
    if operation in ("rename", "add"):
        value = rng.choice([5, None, "", "x", "module.x", 1.5, [1, 2], True, "é" * 500])
    elif rng.random() < 0.8:
        value = f"tensor:{rng.choice(list(checkpoint_files.TENSORS))}"
    return [["model", rng.choice(names)], operation, value]


def _draw_value(rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return f"tensor:{rng.choice(list(checkpoint_files.TENSORS))}"
    return hostile.hostile(rng)


def _draw_header_edit(rng: random.Random, data: bytes) -> list[Any]:
    """The keys, the operation and the value of an edit of a safetensors file's header."""
    if rng.random() < 0.15:
        return [["x"], "length", rng.choice([0, 1, 7, 2**20, 60 * 10**6, 10**8, 2**31, 2**63, -1])]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = rng.choice(["__metadata__", *rng.sample(sorted(header), 4)])
    keys: list[Any] = [name]
    if rng.random() < 0.8:
        keys.append(rng.choice(sorted(header[name])))
    if isinstance(header[name].get(keys[-1]), list) and rng.random() < 0.7:
        keys.append(rng.randrange(max(len(header[name][keys[1]]), 1)))
        return [keys, "set", rng.choice([0, -1, 2**63, 10**12, 1, 3, None, "1", 1.5])]
    values = ["F32", "I64", "F64", "BF16", "X", [0, 8], [8, 0], [0, 2**63], [], {"x": "y"}]
    return [keys, rng.choice(("set", "remove", "rename")), rng.choice([*values, _draw_value(rng)])]
