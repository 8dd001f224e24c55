"""Images and videos by their http(s) addresses."""

import http.client
import re
import urllib.parse
import urllib.request
from typing import IO, Any

from .._version import __version__
from ..model_zoo.downloads import SafeRedirects, reason_of

MAX_IMAGE_BYTES = 500_000_000
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20  # bytes
_WEB = re.compile(r"https?://", re.IGNORECASE)


def is_web(name: Any) -> bool:
    """Whether it is an http(s) address."""
    return isinstance(name, str) and _WEB.match(name) is not None


def path_of(url: str) -> str:
    """The path in an address, without what follows it and without escapes."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path)


def fetch(url: str, file: IO[bytes], max_bytes: int | None = None) -> None:
    """Write what an address gives to a file.

    Raises:
        ConnectionError: it cannot be had, breaks off, or is larger than `max_bytes`. One line.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"queryinst/{__version__}"})
        opener = urllib.request.build_opener(SafeRedirects)
        with opener.open(request, timeout=_TIMEOUT) as response:
            size = 0
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise ConnectionError(f"it has more than {max_bytes / 1e6:.4g} MB")
                file.write(chunk)
            if response.length:  # urllib ends a broken connection without an error
                raise ConnectionError(f"it ended {response.length} bytes too early")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{url} could not be downloaded ({reason_of(error)})") from error
