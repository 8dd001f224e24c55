"""Running an exported QueryInst with NumPy, Pillow and ONNX Runtime alone."""

from .results import Result
from .session import Session

__all__ = ["Result", "Session"]
