"""Published files: downloaded whole and with the right digest, or not at all."""

import http.client
import logging
import os
import queue
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any

from tqdm import tqdm

from .._version import __version__
from ..checkpoint.files import remove_quietly, sha256_of, sync_folder
from .metadata import ModelEntry

logger = logging.getLogger(__name__)

_TIMEOUT = 60  # seconds without a byte
_WINDOW, _MIN_RATE = 90, 2000  # seconds; bytes a second, on average over the window
# A file may be as much larger than models.yaml says: names and meta, and the figure is approximate.
_TOLERANCE, _MARGIN = 1.25, 1_000_000
_CHUNK = 1 << 20  # bytes
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
        ConnectionError: no network, no such address, or the connection ended early, is too slow,
            or gave more than models.yaml states.
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
        with open(partial, "wb") as opened:
            file = _Partial(opened, entry.approximate_size_mb)
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
        sync_folder(os.path.dirname(path))
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


class _Partial:
    """The file that a download fills, up to a size.

    Attributes:
        size: how much of it there is, in bytes.
        max_bytes: how much there may be.
    """

    def __init__(self, file: IO[bytes], approximate_size_mb: int):
        self._file = file
        self.size, self.max_bytes = 0, _TOLERANCE * 1e6 * approximate_size_mb + _MARGIN

    def write(self, chunk: bytes) -> int:
        """Append to the file.

        Raises:
            ConnectionError: it would become larger than it may be.
        """
        self.size += len(chunk)
        self.check(self.size, "it gives")
        return self._file.write(chunk)

    def check(self, size: int, verb: str) -> None:
        """Raise a ConnectionError if a size in bytes is more than models.yaml allows."""
        if size > self.max_bytes:
            raise ConnectionError(
                f"{verb} {size / 1e6:.4g} MB or more, and approximate_size_mb in models.yaml allows"
                f" {self.max_bytes / 1e6:.4g} MB"
            )

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()


class _Bar(tqdm):
    """With a lock of this process alone: a forked child that is killed could keep tqdm's own."""


_Bar.set_lock(threading.RLock())


def _receive(url: str, file: _Partial) -> None:
    """Write what the address gives to a file, and give up if too little arrives.

    A socket's timeout starts anew with every byte, and the answer's head, which also could arrive
    byte by byte, is read inside of urllib. So another thread receives, and this one watches.

    Raises:
        ConnectionError, OSError, HTTPException: as `_copy`; or less than `_MIN_RATE` arrives.
    """
    results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    arguments = (url, file, results)
    threading.Thread(target=_copy, args=arguments, name="download", daemon=True).start()
    size = 0
    while True:
        try:
            error = results.get(timeout=_WINDOW)
        except queue.Empty:
            if file.size - size < _WINDOW * _MIN_RATE:
                raise ConnectionError(
                    f"timed out: {file.size - size} bytes in {_WINDOW} s, at least {_MIN_RATE} a"
                    " second are needed"
                ) from None
            size = file.size
            continue
        if error is None:
            return
        raise error


def _copy(url: str, file: _Partial, results: "queue.SimpleQueue[Exception | None]") -> None:
    """Write what the address gives, with a bar where stderr is a terminal; put None or an error.

    torch.hub's download has no timeout, and does not compare with the length that was promised.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"queryinst/{__version__}"})
        opener = urllib.request.build_opener(SafeRedirects)
        with opener.open(request, timeout=_TIMEOUT) as response:
            length = response.length  # None if the head doesn't say: the digest alone tells the end
            file.check(length or 0, "it promises")
            with _Bar(total=length, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := response.read1(_CHUNK):  # what is there, without waiting for more
                    bar.update(file.write(chunk))
            if response.length:
                done = length - response.length
                raise ConnectionError(f"it ended after {done} of {length} bytes")
    except (OSError, http.client.HTTPException) as error:
        results.put(error)
    except Exception as error:  # urllib's own for an address that it cannot parse
        results.put(ConnectionError(f"{type(error).__name__}: {error}"))
    else:
        results.put(None)


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows addresses as its base, a few and of http(s), but not from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any):
        """The request for `newurl`.

        Raises:
            ConnectionError: it is not an address of the same safety.
        """
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in schemes:
            raise ConnectionError(f"it leads to {newurl[:160]!r}, which is not {schemes[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def unwritable(path: str, error: BaseException) -> OSError:
    """The error to raise when a file in the cache could not be written."""
    return OSError(
        f"cannot write {path} ({reason_of(error)}); set FVCORE_CACHE to a folder that can be"
        " written to, with room left"
    )


def reason_of(error: BaseException) -> str:
    """Why something failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return " ".join(f"HTTP {error.code} {error.reason}".split())[:160]
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text)[:160] or type(error).__name__
