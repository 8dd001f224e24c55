"""Files that are written whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text file beside `path`, which takes its place at the end unless an error is raised."""
    target = Path(path)
    part = target.with_name(f".{target.name}-{os.getpid()}.part")
    try:
        # Halves of characters, as names of files can have, are not UTF-8.
        with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
