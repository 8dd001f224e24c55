"""Running an exported QueryInst with NumPy, Pillow and ONNX Runtime alone."""

from .results import Result

__all__ = ["Result"]
