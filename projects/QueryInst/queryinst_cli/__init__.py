"""The command `queryinst`. What reads its arguments imports the standard library alone."""

from .main import main

__all__ = ["main"]
