"""Data: augmentations, checks before training, and the procedural set `shapes`, registered on import."""

from .shapes import register_shapes

register_shapes()
