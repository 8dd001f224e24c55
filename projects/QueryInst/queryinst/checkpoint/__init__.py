"""Checkpoints: Detectron2's format with this project's metadata, read strictly and safely."""

from .checkpointer import QueryInstCheckpointer
from .meta import build_meta, read_meta
from .mmdet import convert_mmdet_state_dict

__all__ = ["QueryInstCheckpointer", "build_meta", "convert_mmdet_state_dict", "read_meta"]
