"""Pictures and videos of a model's predictions: what demo/demo.py runs."""

from .visualize import build_parser, main

__all__ = ["build_parser", "main"]
