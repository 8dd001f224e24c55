"""The architecture, its losses and its matching."""

from .meta_arch import QueryInst

__all__ = ["QueryInst"]
