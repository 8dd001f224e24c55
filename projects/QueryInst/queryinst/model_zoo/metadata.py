"""models.yaml: the published models, with where their files are and what was published of them."""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import yaml

PREFIX = "queryinst://"
MODELS_YAML_VARIABLE = "QUERYINST_MODELS_YAML"
PACKAGED_MODELS_YAML = Path(__file__).resolve().with_name("models.yaml")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_SHA256_PREFIX = re.compile(r"[0-9a-f]{8}")
_NOUNS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What a model was trained with; `short_side` is that of the resized images, in pixels."""

    queries: int
    epochs: int
    short_side: str
    crop: bool


@dataclass(frozen=True)
class Published:
    """AP on COCO val2017 in percent, as others published it: by whom, and where to read it."""

    box_ap: float
    mask_ap: float
    by: str
    source: str


@dataclass(frozen=True)
class Measured:
    """AP in percent that `tools/evaluate_zoo.py` measured with this project.

    `options` are the KEY VALUE words that the configuration was changed by, "" if by none.
    """

    box_ap: float
    mask_ap: float
    date: str
    data_set: str
    options: str
    versions: str
    hardware: str


@dataclass(frozen=True)
class ModelEntry:
    """One published model; models.yaml itself says what each field means."""

    name: str
    config: str
    url: str | None
    sha256_prefix: str | None
    parameters: int
    approximate_size_mb: int
    recipe: Recipe
    published: Published
    measured: Measured | None
    licence: str
    attribution: str
    training_data: str

    @property
    def checkpoint_url(self) -> str | None:
        """What any Detectron2 loader takes; None if the file has no stable address."""
        return f"{PREFIX}mmdet/{self.name}/{self.sha256_prefix}.pth" if self.url else None

    @property
    def alias(self) -> str:
        """The same by the configuration's name."""
        return PREFIX + self.config.removesuffix(".yaml")

    @property
    def file_name(self) -> str:
        """The published file's own name."""
        return _file_name(self.url or "")


def models_yaml() -> Path:
    """The file that is read: $QUERYINST_MODELS_YAML, or the packaged one."""
    return Path(os.environ.get(MODELS_YAML_VARIABLE) or PACKAGED_MODELS_YAML)


def load_models(path: str | os.PathLike | None = None) -> tuple[ModelEntry, ...]:
    """All models of models.yaml.

    Args:
        path: the file to read; by default `models_yaml()`.

    Raises:
        FileNotFoundError: $QUERYINST_MODELS_YAML names no file.
        ValueError: the file does not keep to the schema; one line with file, entry and field.
    """
    path = Path(path) if path is not None else models_yaml()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise FileNotFoundError(
            f"{path} can't be read ({reason}); set {MODELS_YAML_VARIABLE} to a models.yaml, or"
            " unset it"
        ) from error
    return parse_models(text, str(path))


def parse_models(text: str, shown: str) -> tuple[ModelEntry, ...]:
    """The entries in a text of models.yaml; `shown` names the file in messages.

    Raises:
        ValueError: as `load_models`.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{shown} is not valid yaml: {' '.join(str(error).split())}") from error
    raw = content.get("models") if isinstance(content, Mapping) else None
    if not isinstance(raw, list) or len(content) != 1:
        raise ValueError(f"{shown} must hold one key, models, with a list of entries")
    entries = []
    for index, item in enumerate(raw):
        name = item.get("name") if isinstance(item, Mapping) else None
        entry = _read(ModelEntry, item, f"{shown}, entry {name or index + 1}")
        _check_values(entry, f"{shown}, entry {entry.name}")
        entries.append(entry)
    for field in ("name", "config"):
        _check_unique([getattr(entry, field) for entry in entries], field, shown)
    return tuple(entries)


def find_by_config(config_path: str) -> ModelEntry | None:
    """The model of that configuration, if there is one."""
    return next((entry for entry in load_models() if entry.config == config_path), None)


def _read(cls: type[T], raw: Any, where: str) -> T:
    """An object of dataclass `cls` from a mapping that has exactly its fields."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} is {raw!r}; it must be a mapping of fields to values")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if missing := [name for name in names if name not in raw]:
        raise ValueError(f"{where} lacks the field {missing[0]}")
    if unknown := [key for key in raw if key not in names]:
        raise ValueError(f"{where} has an unknown field {unknown[0]!r}; known: {', '.join(names)}")
    return cls(**{name: _value(hints[name], raw[name], f"{where}, {name}") for name in names})


def _value(kind: Any, raw: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):  # X | None
        if raw is None:
            return None
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type, kind), raw, where)
    if kind is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not kind:
        hint = "; put it in quotes" if kind is str and isinstance(raw, (int, float)) else ""
        raise ValueError(f"{where} is {raw!r}; it must be {_NOUNS[kind]}{hint}")
    return raw


def _check_values(entry: ModelEntry, where: str) -> None:
    if not _NAME.fullmatch(entry.name):
        raise ValueError(f"{where}, name {entry.name!r} must be of letters, digits, '_', '.', '-'")
    _check_address(entry, where)
    for field in ("parameters", "approximate_size_mb"):
        if (value := getattr(entry, field)) < 0:
            raise ValueError(f"{where}, {field} is {value}; it must not be negative")
    for name, scores in (("published", entry.published), ("measured", entry.measured)):
        for field in ("box_ap", "mask_ap") if scores else ():
            if not 0 <= (value := getattr(scores, field)) <= 100:
                raise ValueError(f"{where}, {name}, {field} is {value}; it must be in [0, 100]")


def _check_address(entry: ModelEntry, where: str) -> None:
    if (entry.url is None) != (entry.sha256_prefix is None):
        raise ValueError(f"{where}, url and sha256_prefix must both be given, or both be null")
    if entry.sha256_prefix is not None and not _SHA256_PREFIX.fullmatch(entry.sha256_prefix):
        raise ValueError(
            f"{where}, sha256_prefix {entry.sha256_prefix!r} must be the first 8 hexadecimal digits"
            " of the file's sha256, in small letters"
        )
    if entry.url is not None:
        parsed = urlparse(entry.url)
        is_web = parsed.scheme in ("http", "https") and parsed.netloc
        if not is_web or not _NAME.fullmatch(_file_name(entry.url)):
            raise ValueError(f"{where}, url {entry.url!r} must be the http(s) address of a file")


def _check_unique(values: Sequence[str], field: str, shown: str) -> None:
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ValueError(f"{shown} has two entries of the {field} {twice[0]!r}")


def _file_name(url: str) -> str:
    return unquote(urlparse(url).path).rpartition("/")[2]
