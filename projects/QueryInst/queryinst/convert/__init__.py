"""Checkpoints from one layout or file type to another: what tools/convert_checkpoint.py runs."""

from .convert_checkpoint import Conversion, convert_checkpoint
from .text import conversion_text

__all__ = ["Conversion", "conversion_text", "convert_checkpoint"]
