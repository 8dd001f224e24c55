"""How much memory a checkpoint file may ask for, whatever it says of itself."""

import os
from dataclasses import dataclass

VARIABLE = "QUERYINST_MAX_CHECKPOINT_MB"
# Without the variable: what weights, and the objects that name them, need several times over.
_PER_FILE_BYTE, _AT_LEAST = 4, 64_000_000


class TooLargeError(ValueError):
    """A file asks for more memory than the limit; the message goes on after the file's name."""


@dataclass
class MemoryLimit:
    """What may be allocated for one file, in bytes; and what was asked for so far.

    Attributes:
        is_chosen: whether an argument or the variable says so, in the place of the file's size.
    """

    max_bytes: int
    file_size: int
    is_chosen: bool
    taken: int = 0

    @classmethod
    def of_file(cls, path: str, max_bytes: int | None = None) -> "MemoryLimit":
        """`max_bytes`, else $QUERYINST_MAX_CHECKPOINT_MB, else four times the file and 64 MB.

        Raises:
            ValueError: the variable is not a number of MB.
        """
        size = os.path.getsize(path)
        if max_bytes is None and (text := os.environ.get(VARIABLE)):
            try:
                max_bytes = int(float(text) * 1e6)
            except (ValueError, OverflowError) as error:
                raise ValueError(
                    f"{VARIABLE} is {text[:80]!r}; it must be a number of MB"
                ) from error
        if max_bytes is not None:
            return cls(max_bytes, size, is_chosen=True)
        return cls(_PER_FILE_BYTE * size + _AT_LEAST, size, is_chosen=False)

    def fits(self, num_bytes: int) -> bool:
        """Whether so much more would stay within the limit."""
        return self.taken + num_bytes <= self.max_bytes

    def take(self, num_bytes: int, what: str = "what it holds") -> None:
        """Count bytes that are about to be allocated.

        Raises:
            TooLargeError: they exceed the limit.
        """
        if not self.fits(num_bytes):
            raise TooLargeError(
                f"is not loaded: {what} takes more than {self.max_bytes / 1e6:.6g} MB, the limit"
                f" for this file of {self.file_size / 1e6:.6g} MB; if you trust its author, set"
                f" {VARIABLE} higher"
            )
        self.taken += num_bytes
