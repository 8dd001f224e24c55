"""Checkpoints from one layout or file type to another: what tools/convert_checkpoint.py runs."""

from .convert_checkpoint import Conversion, convert_checkpoint

__all__ = ["Conversion", "convert_checkpoint"]
