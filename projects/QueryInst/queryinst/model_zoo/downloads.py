"""Published files: downloaded whole and with the right digest, or not at all."""

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from tqdm import tqdm

from .._version import __version__
from ..checkpoint.files import remove_quietly, sha256_of

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class PublishedFile:
    """A file that others published: its address, how its sha256 begins, and about how big it is."""

    url: str
    sha256_prefix: str
    approximate_size_mb: int


def ensure_file(published: PublishedFile, path: str, *, force: bool = False) -> str:
    """Have the published file at `path`: the one that is there if it is the right one, or download.

    The caller holds the lock of this path.

    Args:
        force: download even if there is a file.

    Returns:
        The file's sha256.

    Raises:
        ValueError: what is there, or what the address gave, has another digest. A file that was
            there, which a person may have put there, stays; a downloaded one goes.
        ConnectionError: no network, no such address, or the connection ended early.
        OSError: the file can't be read or written.
    """
    partial = f"{path}.part"
    remove_quietly(partial)  # of a run that was killed: the lock says that it is nobody's
    if force or not os.path.isfile(path):
        return _download(published, path, partial)
    digest = _sha256_of(path)
    if not digest.startswith(published.sha256_prefix):
        raise ValueError(
            f"{path} is not the published file: its sha256 is {digest}, and that of {published.url}"
            f" begins with {published.sha256_prefix}; it was left as it is, remove or replace it"
        )
    return digest


def _sha256_of(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise OSError(f"{path} can't be read ({reason_of(error)})") from error


def _download(published: PublishedFile, path: str, partial: str) -> str:
    try:
        digest = _write(published, partial, path)
        if not digest.startswith(published.sha256_prefix):
            raise ValueError(
                f"what {published.url} gave has the sha256 {digest}, which should begin with"
                f" {published.sha256_prefix}; it was removed, as it is not the published file"
            )
        try:
            os.replace(partial, path)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:  # also when interrupted; after the renaming there is nothing of that name
        remove_quietly(partial)
    return digest


def _write(published: PublishedFile, partial: str, path: str) -> str:
    """Download to the name `partial`; `path` is for the message alone. Returns the sha256."""
    size = f"about {published.approximate_size_mb} MB"
    logger.info("Downloading %s (%s) to %s", published.url, size, path)
    digest = hashlib.sha256()
    try:
        with open(partial, "wb") as file:
            for chunk in _receive(published.url):
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (ConnectionError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{published.url} could not be downloaded ({reason_of(error)}); without a network, get"
            f" this file ({size}) elsewhere and put it at {path}"
        ) from error
    except OSError as error:
        raise unwritable(partial, error) from error
    return digest.hexdigest()


def _receive(url: str) -> Iterator[bytes]:
    """The body in chunks. What fails is a ConnectionError, so that it isn't taken for the disk's.

    Without a length in the answer's head, an early end shows in the digest alone.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"queryinst/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            length = response.length  # None if the head doesn't say
            done = 0
            # disable=None: no bar where stderr is not a terminal
            with tqdm(
                total=length, unit="B", unit_scale=True, disable=None, mininterval=0.5
            ) as bar:
                while chunk := response.read(_CHUNK):
                    done += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
    except OSError as error:  # urllib's, a timeout, a reset
        raise ConnectionError(reason_of(error)) from error
    if length is not None and done < length:
        raise ConnectionError(f"it ended after {done} of {length} bytes")


def unwritable(path: str, error: BaseException) -> OSError:
    """The error to raise when a file in the cache could not be written."""
    return OSError(
        f"cannot write {path} ({reason_of(error)}); set FVCORE_CACHE to a folder that can be"
        " written to, with room left"
    )


def reason_of(error: BaseException) -> str:
    """Why something failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text)[:160] or type(error).__name__
