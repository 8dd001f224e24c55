"""models.yaml: the published models, with where their files are and what was published of them."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..yaml_files import load_yaml

PREFIX = "queryinst://"
MODELS_YAML_VARIABLE = "QUERYINST_MODELS_YAML"
PACKAGED_MODELS_YAML = Path(__file__).resolve().with_name("models.yaml")

_MAX_NUMBER = 10**12
_NAME = r"[A-Za-z0-9][\w.-]*"
_URL = rf"https?://[^/?#]+/(?:[^?#]*/)?({_NAME})(?:\?.*)?"
# Fields that become paths and addresses: the pattern of the whole value, and that in words.
_RULES = (
    ("name", _NAME, "of letters, digits, '_', '.', '-'"),
    ("config", r".+\.yaml", "the name or path of a .yaml file"),
    ("url", _URL, "the http(s) address of a file"),
    (
        "sha256_prefix",
        "[0-9a-f]{8}",
        "the first 8 hexadecimal digits of the file's sha256, in small letters and in quotes",
    ),
)


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
        match = re.fullmatch(_URL, self.url or "")
        return match[1] if match else ""


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


def _parse(text: str, file: str) -> tuple[ModelEntry, ...]:
    content = load_yaml(text, file)
    items = content.get("models") if isinstance(content, dict) else None
    if not isinstance(items, list) or len(content) != 1:
        raise ValueError(f"{file} must hold one key, models, with a list of entries")
    entries = tuple(_read(item, number, file) for number, item in enumerate(items, start=1))
    for field in ("name", "config"):
        values = [getattr(entry, field) for entry in entries]
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{file} has two entries of the {field} {value!r}")
    return entries


def _read(item: Any, number: int, file: str) -> ModelEntry:
    where = f"{file}, entry {item.get('name', number) if isinstance(item, dict) else number}"
    try:
        parts = {"recipe": Recipe(**item["recipe"]), "published": Published(**item["published"])}
        entry = ModelEntry(**{**item, **parts})
    except KeyError as error:
        raise ValueError(f"{where} lacks the field {error.args[0]}") from error
    except TypeError as error:  # the dataclass names the field that is missing or unknown
        raise ValueError(f"{where} is not an entry: {error}") from error
    has_address = entry.url is not None
    if has_address != (entry.sha256_prefix is not None):
        raise ValueError(f"{where}, url and sha256_prefix must both be given, or both be null")
    for field, pattern, needed in _RULES if has_address else _RULES[:2]:
        value = getattr(entry, field)
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise ValueError(f"{where}, {field} is {value!r}; it must be {needed}")
    for part in (entry, entry.recipe, entry.published):
        _check_types(part, where)
    return entry


def _check_types(part: Any, where: str) -> None:
    for field in fields(part):
        value, kind = getattr(part, field.name), field.type
        is_number = type(value) in ((int,) if kind is int else (int, float))
        if kind in (int, float) and not (is_number and 0 < value <= _MAX_NUMBER):
            kind_text = "whole number" if kind is int else "number"
            raise ValueError(
                f"{where}, {field.name} is {str(value)[:80]!r}; it must be a {kind_text} above 0"
            )
        if kind is str and not isinstance(value, str):
            raise ValueError(f"{where}, {field.name} is of type {type(value).__name__}, not a text")
