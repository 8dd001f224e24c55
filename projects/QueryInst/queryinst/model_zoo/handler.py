"""queryinst://, the names under which Detectron2's PathManager finds the published models.

A name is ``queryinst://mmdet/<name>/<first 8 digits of sha256>.pth``, which never changes its
meaning, or an alias such as ``queryinst://COCO-InstanceSegmentation/queryinst_R_50_FPN_1x``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir
from portalocker.exceptions import LockException

from .conversion import CONVERTER_VERSION, convert_published
from .downloads import ensure_file, unwritable
from .metadata import PREFIX, ModelEntry, load_models, models_yaml
from .model_zoo import config_of


class QueryInstHandler(PathHandler):
    """Downloads a published model, checks it, converts it once, and gives the converted file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        return converted_file(path, force=force, cache_dir=cache_dir)

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can be read alone, mode is {mode!r}")
        return open(converted_file(path), mode, buffering)


def register_handler() -> None:
    """Let Detectron2's PathManager know queryinst://; doing so again changes nothing."""
    PathManager.register_handler(QueryInstHandler())


def converted_file(path: str, *, force: bool = False, cache_dir: str | None = None) -> str:
    """The local file, in Detectron2's layout, of a queryinst:// name.

    What was converted before is taken as it is, without a network.

    Args:
        force: download and convert again.
        cache_dir: in the place of $FVCORE_CACHE (default ~/.torch/iopath_cache).

    Raises:
        FileNotFoundError: no such model, or its file has no stable address.
        ValueError, ConnectionError, OSError: one line, as `ensure_file` and `convert_published`.
    """
    entry = find_entry(path)
    target = cache_path(entry, cache_dir)
    if force or not os.path.isfile(target):
        with _locked(target):
            if force or not os.path.isfile(target):  # another process may have been faster
                _prepare(entry, target, force)
    return target


def cache_path(entry: ModelEntry, cache_dir: str | None = None) -> str:
    """Where the converted file of a model is, or will be; the published file is beside it."""
    folder = os.path.join(get_cache_dir(cache_dir), "queryinst", "mmdet", entry.name)
    file_name = f"{entry.sha256_prefix}_detectron2_v{CONVERTER_VERSION}.pth"
    return os.path.join(folder, str(entry.sha256_prefix), file_name)


def find_entry(path: str) -> ModelEntry:
    """The model that a queryinst:// name stands for.

    Raises:
        FileNotFoundError: there is none, the message lists all; or its file has no stable address.
    """
    entries = load_models()
    for entry in entries:
        if path == entry.checkpoint_url:
            return entry
        if path.removesuffix(".yaml") == entry.alias:
            if entry.url:
                return entry
            raise FileNotFoundError(
                f"{path}: the file of {entry.name} has no stable address; get it from"
                f" {entry.attribution} and give its path"
            )
    known = ", ".join(f"{e.checkpoint_url} ({e.alias})" for e in entries if e.url)
    raise FileNotFoundError(f"{path} is no model of {models_yaml()}; there are: {known}")


def _prepare(entry: ModelEntry, target: str, force: bool) -> None:
    assert entry.url and entry.sha256_prefix
    cfg = config_of(entry)  # before the download: a wrong name in models.yaml shows at once
    source = os.path.join(os.path.dirname(target), entry.file_name)
    digest = ensure_file(entry, source, force=force)
    convert_published(source, target, entry=entry, cfg=cfg, digest=digest)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep other processes and threads away from what is made at `path`."""
    lock = file_lock(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock.acquire()
    except LockException as error:
        raise OSError(f"another process has held {path}.lock for too long; is it stuck?") from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()
