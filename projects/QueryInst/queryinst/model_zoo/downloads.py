"""Published files: downloaded whole and with the right digest, or not at all."""

import http.client
import logging
import os
import shutil
import ssl
import urllib.error
import urllib.request
from typing import IO

from tqdm import tqdm

from .._version import __version__
from ..checkpoint.files import remove_quietly, sha256_of
from .metadata import ModelEntry

logger = logging.getLogger(__name__)

_TIMEOUT = 60  # seconds without a byte
# What a connection raises; any other OSError is the disk's.
_OF_THE_NETWORK = (
    ConnectionError,
    TimeoutError,
    http.client.HTTPException,
    ssl.SSLError,
    urllib.error.URLError,
)


def ensure_file(entry: ModelEntry, path: str, *, force: bool = False) -> str:
    """Have a model's file at `path`: the one that is there if it is the right one, or download.

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
        return _download(entry, path, partial)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise OSError(f"{path} can't be read ({reason_of(error)})") from error
    if not digest.startswith(str(entry.sha256_prefix)):
        raise ValueError(
            f"{path} is not the published file: its sha256 is {digest}, and that of {entry.url}"
            f" begins with {entry.sha256_prefix}; it was left as it is, remove or replace it"
        )
    return digest


def _download(entry: ModelEntry, path: str, partial: str) -> str:
    """Download under the name `partial`, which becomes `path` when the digest is right."""
    url, size = str(entry.url), f"about {entry.approximate_size_mb} MB"
    logger.info("Downloading %s (%s) to %s", url, size, path)
    try:
        with open(partial, "wb") as file:
            _receive(url, file)
            file.flush()
            os.fsync(file.fileno())
        digest = sha256_of(partial)
        if not digest.startswith(str(entry.sha256_prefix)):
            raise ValueError(
                f"what {url} gave has the sha256 {digest}, which should begin with"
                f" {entry.sha256_prefix}; it was removed, as it is not the published file"
            )
        os.replace(partial, path)
    except _OF_THE_NETWORK as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({reason_of(error)}); without a network, get this file"
            f" ({size}) elsewhere and put it at {path}"
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error
    finally:  # also when interrupted; after the renaming there is nothing of that name
        remove_quietly(partial)
    return digest


def _receive(url: str, file: IO[bytes]) -> None:
    """Write what the address gives to a file, with a bar where stderr is a terminal.

    torch.hub's download has no timeout, and does not compare with the length that was promised.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"queryinst/{__version__}"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        length = response.length  # None if the head doesn't say: the digest alone tells the end
        with tqdm.wrapattr(response, "read", total=length, disable=None) as body:
            shutil.copyfileobj(body, file, 1 << 20)
        if response.length:
            done = length - response.length
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
