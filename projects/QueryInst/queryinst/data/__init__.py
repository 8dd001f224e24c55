"""Data: augmentations, checks before training, and the procedural set `shapes`."""

from .shapes import register_shapes

register_shapes()
