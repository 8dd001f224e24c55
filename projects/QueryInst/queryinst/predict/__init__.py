"""From images of any kind to results: what `queryinst.load` gives."""

from .loading import load
from .model import Model

__all__ = ["Model", "load"]
