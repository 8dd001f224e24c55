"""models.yaml: the published models, with where their files are and what was published of them."""

import dataclasses
import operator
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import yaml

PREFIX = "queryinst://"
MODELS_YAML_VARIABLE = "QUERYINST_MODELS_YAML"
PACKAGED_MODELS_YAML = Path(__file__).resolve().with_name("models.yaml")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
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
    licence: str
    attribution: str
    training_data: str

    @property
    def checkpoint_url(self) -> str | None:
        """What any Detectron2 loader reads; None if the file has no stable address."""
        return f"{PREFIX}mmdet/{self.name}/{self.sha256_prefix}.pth" if self.url else None

    @property
    def alias(self) -> str:
        """The same by the configuration's name."""
        return PREFIX + self.config.removesuffix(".yaml")

    @property
    def file_name(self) -> str:
        """The published file's own name."""
        return _last_part(self.url or "")


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
    return _parse(text, str(path))


def find_by_config(config_path: str) -> ModelEntry | None:
    """The model of that configuration, if there is one."""
    return next((entry for entry in load_models() if entry.config == config_path), None)


def _last_part(url: str) -> str:
    return unquote(urlparse(url).path).rpartition("/")[2]


def _is_file_address(url: str) -> bool:
    parsed = urlparse(url)
    is_web = parsed.scheme in ("http", "https") and bool(parsed.netloc)
    return is_web and _NAME.fullmatch(_last_part(url)) is not None


# Field, whether its value (never null) is right, and what the value must be.
_RULES: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("name", _NAME.fullmatch, "of letters, digits, '_', '.', '-'"),
    ("url", _is_file_address, "the http(s) address of a file"),
    (
        "sha256_prefix",
        re.compile(r"[0-9a-f]{8}").fullmatch,
        "the first 8 hexadecimal digits of the file's sha256, in small letters",
    ),
    ("parameters", lambda value: value >= 0, "at least 0"),
    ("approximate_size_mb", lambda value: value >= 0, "at least 0"),
    ("published.box_ap", lambda value: 0 <= value <= 100, "in [0, 100]"),
    ("published.mask_ap", lambda value: 0 <= value <= 100, "in [0, 100]"),
)


def _parse(text: str, file: str) -> tuple[ModelEntry, ...]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid yaml: {' '.join(str(error).split())}") from error
    raw = content.get("models") if isinstance(content, Mapping) else None
    if not isinstance(raw, list) or len(content) != 1:
        raise ValueError(f"{file} must hold one key, models, with a list of entries")
    entries: list[ModelEntry] = []
    for index, item in enumerate(raw):
        name = item.get("name") if isinstance(item, Mapping) else None
        where = f"{file}, entry {name or index + 1}"
        entry = _read(ModelEntry, item, where)
        _check(entry, where)
        for field in ("name", "config"):
            if (value := getattr(entry, field)) in [getattr(other, field) for other in entries]:
                raise ValueError(f"{file} has two entries of the {field} {value!r}")
        entries.append(entry)
    return tuple(entries)


def _read(cls: type[T], raw: Any, where: str) -> T:
    """An object of dataclass `cls` from a mapping that has exactly its fields."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} is {raw!r}; it must be a mapping of fields to values")
    kinds = typing.get_type_hints(cls)
    if missing := [name for name in kinds if name not in raw]:
        raise ValueError(f"{where} lacks the field {missing[0]}")
    if unknown := [key for key in raw if key not in kinds]:
        raise ValueError(f"{where} has an unknown field {unknown[0]!r}; known: {', '.join(kinds)}")
    return cls(**{name: _value(kinds[name], raw[name], f"{where}, {name}") for name in kinds})


def _value(kind: Any, raw: Any, where: str) -> Any:
    if type(None) in typing.get_args(kind):  # X | None
        return None if raw is None else _value(typing.get_args(kind)[0], raw, where)
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type, kind), raw, where)
    if kind is float and type(raw) is int:
        return float(raw)
    if type(raw) is not kind:
        hint = "; put it in quotes" if kind is str and isinstance(raw, (int, float)) else ""
        raise ValueError(f"{where} is {raw!r}; it must be {_NOUNS[kind]}{hint}")
    return raw


def _check(entry: ModelEntry, where: str) -> None:
    if (entry.url is None) != (entry.sha256_prefix is None):
        raise ValueError(f"{where}, url and sha256_prefix must both be given, or both be null")
    for field, is_right, needed in _RULES:
        value = operator.attrgetter(field)(entry)
        if value is not None and not is_right(value):
            name = field.replace(".", ", ")
            raise ValueError(f"{where}, {name} is {value!r}; it must be {needed}")
